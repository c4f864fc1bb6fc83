"""Rewrite matrices into fewer or smaller ones."""
