"""The search for sparse plans."""
