"""Engines and export formats are listed in one place, ``edgeprune/engines.py``: a second list would be forgotten when one is added."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprune.engines import DEFAULT_FORMATS, ENGINE_OF_SUFFIX, ENGINES, FORMATS, engine_of
from edgeprune.export import formats
from edgeprune.search.measure.device import check_device_engine
from edgeprune.search.precision import PRECISIONS

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "edgeprune" / "engines.py"
NAMES = {*ENGINES, *FORMATS}
SUFFIXES = {*ENGINE_OF_SUFFIX, *(entry.suffix for entry in FORMATS.values())}
OTHERWISE = {("export/sizes.py", ".pt")}  # of members of a .pt2 archive, not of a model's file


def documentation(tree: ast.AST) -> set[int]:
    """The places of strings that are statements: docstrings."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def texts(nodes: list[ast.expr | None]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def second_lists(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and content of every list of two engines or formats, of every text that names three, and of every suffix."""
    skipped = documentation(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)) and len(found := texts(list(node.elts)) & NAMES) > 1:
            yield node.lineno, f"lists {', '.join(sorted(found))}"
        elif isinstance(node, ast.Dict) and len(found := texts(list(node.keys)) & NAMES) > 1:
            yield node.lineno, f"has keys for {', '.join(sorted(found))}"
        elif isinstance(node, ast.Compare) and (found := texts([node.left, *node.comparators]) & SUFFIXES):
            yield node.lineno, f"compares with {', '.join(found)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            if node.value in SUFFIXES:
                yield node.lineno, f"names the suffix {node.value}"
            elif len(found := {part.strip() for part in node.value.split(",")} & NAMES) > 1:
                yield node.lineno, f"names {', '.join(sorted(found))}"


@pytest.mark.parametrize("path", sorted((ROOT / "edgeprune").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_lists_engines_formats_or_suffixes(path: Path) -> None:
    if path == TABLE:
        return
    place = str(path.relative_to(ROOT / "edgeprune"))
    found = [
        f"line {line} {what}"
        for line, what in second_lists(ast.parse(path.read_text()))
        if not any(place == name and what == f"names the suffix {suffix}" for name, suffix in OTHERWISE)
    ]
    assert not found, f"{place}: {'; '.join(found)}: say it in edgeprune/engines.py"


@pytest.mark.parametrize(
    "text",
    ['x = ("tflite", "onnx")', 'x = {"tflite": 1, "native": 2}', 'y = path.suffix == ".pte"', 'z = "tflite, onnx, pt2"', 'w = [".onnx"]'],
)
def test_a_second_list_is_found(text: str) -> None:
    assert list(second_lists(ast.parse(text)))


def test_every_format_of_the_table_can_be_written_and_no_other() -> None:
    assert formats.names() == sorted(FORMATS)
    for name, kind in FORMATS.items():
        entry = formats.find(name)
        assert (entry.name, entry.suffix, entry.engine) == (kind.name, kind.suffix, kind.engine)
        assert formats.of_path(Path(f"model{kind.suffix}")) is entry
    assert set(DEFAULT_FORMATS) <= set(FORMATS)


def test_the_table_says_what_runs_a_file() -> None:
    assert engine_of("a.fp16.tflite") == engine_of("b.tflite") == "tflite"
    assert (engine_of("a.pt"), engine_of("a.pt2"), engine_of("a.onnx"), engine_of("a.pte")) == ("torchscript", None, "onnx", "executorch")
    assert ENGINES["native"].holds == ENGINES["tflite"].holds
    assert list(formats.kernel_builders()) == ["tflite", "torchscript", "onnx"]
    for engine in formats.kernel_builders():
        check_device_engine(engine)
    assert {item.name: item.format for item in PRECISIONS.values()} == {
        FORMATS[item.format].precision: item.format for item in PRECISIONS.values()
    }
