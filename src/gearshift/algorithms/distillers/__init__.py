"""Reach the same images in fewer steps."""
