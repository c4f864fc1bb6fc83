"""Decide the precision of each step."""
