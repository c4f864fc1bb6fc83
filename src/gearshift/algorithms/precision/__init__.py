"""Algorithms that choose the precision of each step."""
