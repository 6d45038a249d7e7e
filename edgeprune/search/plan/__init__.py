"""From importance and budgets to widths."""
