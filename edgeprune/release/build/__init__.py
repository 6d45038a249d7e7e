"""From finished runs to the content of a release."""
