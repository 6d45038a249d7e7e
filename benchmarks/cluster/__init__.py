"""Faults of workers, caused on purpose: what each costs, and whether the result is the same."""
