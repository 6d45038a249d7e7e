"""The one place that reads files shipped inside the package (profiles, runner, deploy templates)."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable


def resource(package: str, *parts: str) -> Traversable:
    """A shipped file or folder, e.g. ``resource("profiles", "raspberry-pi-4.toml")``."""
    return files(f"edgeprune.{package}").joinpath(*parts)
