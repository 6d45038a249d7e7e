"""Which models edgeprune prunes."""
