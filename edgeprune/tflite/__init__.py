"""A TFLite file as data."""
