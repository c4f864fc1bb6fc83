"""What every room stands on: algorithms, parameters, facts, rules, recipes, records, save and load."""
