"""Finding which steps to compute: record a run, model what filling in costs, solve."""
