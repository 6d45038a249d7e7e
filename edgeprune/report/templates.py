"""The pages' Jinja2 templates, in the folder pages."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@cache
def _environment() -> Environment:
    loader = PackageLoader("edgeprune.report", "pages")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(name: str, **values: Any) -> str:
    """The template ``name`` with these values, which are escaped unless they are :class:`markupsafe.Markup`."""
    environment = _environment()
    assert environment.loader is not None
    style = Markup(environment.loader.get_source(environment, "style.css")[0])
    return environment.get_template(name).render(style=style, **values)
