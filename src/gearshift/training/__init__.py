"""Training what compression left: which parameters, on what, and one loop that can be cut off and goes on."""
