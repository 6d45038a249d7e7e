"""A release as one file: manifest, container, signatures."""
