"""The parts of the report's one HTML file; each gives a string of escaped HTML."""
