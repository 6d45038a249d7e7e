"""How well criteria predict what removals change."""
