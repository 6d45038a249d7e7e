"""Sparse TFLite files."""
