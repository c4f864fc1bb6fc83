"""Hold and multiply numbers in fewer bits."""
