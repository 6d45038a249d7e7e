"""The files and folders that the pages name exist, and so do those that they link to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")]
FOLDERS = {"edgeprune", "tests", "targets", "profiles", "deploy", "recipes", "benchmarks", "docs", ".ci"}
PAST = {"CHANGELOG.md"}  # tells what was
SHORTER = {"docs/design.md"}  # names files as seen from edgeprune/: test_design_page.py looks


def missing(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = [name for name in re.findall(r"`([\w./*<>-]+)`", text) if not there(name)]
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    return found + [link for link in links if not (page.parent / link).exists()]


def there(name: str) -> bool:
    pattern = re.sub(r"<\w+>", "*", name)
    if name.split("/")[0] in FOLDERS and "/" in name:
        return any(ROOT.glob(pattern.rstrip("/")))
    if name.endswith(".py"):  # a bare name is that of some file; a path begins at the root
        return "/" not in name and any(any((ROOT / folder).rglob(pattern)) for folder in FOLDERS)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    if page.name not in PAST and str(page.relative_to(ROOT)) not in SHORTER:
        assert not missing(page)
