"""A run, shown to people: one HTML page that needs nothing else, and a table for the console."""

from edgeprune.report.console import console_table
from edgeprune.report.html import write_report

__all__ = ["console_table", "write_report"]
