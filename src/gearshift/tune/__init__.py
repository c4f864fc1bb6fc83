"""Finding the recipe that makes a model best on this machine, at a quality that is asked for."""
