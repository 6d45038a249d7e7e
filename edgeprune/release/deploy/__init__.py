"""Releases on devices."""
