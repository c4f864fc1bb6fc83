"""Execute the modules in a faster way."""
