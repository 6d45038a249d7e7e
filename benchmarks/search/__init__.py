"""The search beside other methods."""
