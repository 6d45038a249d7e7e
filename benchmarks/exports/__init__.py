"""Every recipe in every format."""
