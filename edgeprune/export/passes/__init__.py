"""Rewrites of a graph before it is converted."""
