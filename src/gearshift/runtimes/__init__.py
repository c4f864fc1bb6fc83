"""Models that another engine runs, behind the calls of the models they replace."""
