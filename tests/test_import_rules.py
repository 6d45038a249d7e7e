"""Who may import whom: never upward; the runner stands alone on Python 3.9's standard library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A layer imports those before it; rooms of one layer do not import each other, but for the pairs listed.
LAYERS = [
    {"verdict"},
    {"errors", "resources", "files", "host", "decode", "engines", "version"},
    {"budget", "profile", "tflite", "parametrization", "placement", "recipes", "shipped", "batches"},
    {"task", "graph", "packing"},
    {"tasks", "importers", "importance", "surgery", "cost", "devices"},
    {"tuning", "bench", "micro", "starters"},
    {"execute"},
    {"runs", "export", "criteria"},
    {"search", "release", "report"},
    {"cli", "testing"},
]
BESIDE = {("search", "report")}  # a run ends with its report
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP = {"", "__main__"}  # edgeprune/__init__.py and edgeprune/__main__.py gather what users call
RESOURCES = {"profiles", "targets", "deploy", "recipe_files"}  # folders of data: read by edgeprune.resources, not imported


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py"))


def parsed(path: Path, **options: object) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path), **options)  # type: ignore[call-overload]


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module imported anywhere in ``tree``, functions and ``if TYPE_CHECKING`` included, as an absolute name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def part(module: str) -> str:
    """The layer's member that ``edgeprune.<part>...`` belongs to; what is not in a layer is of the package itself."""
    name = [*module.split("."), ""][1]
    return name if name in LEVEL or name in RESOURCES else ""


@pytest.mark.parametrize("path", sources("edgeprune"), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upward(path):
    relative = path.relative_to(ROOT)
    own = relative.parts[1].removesuffix(".py") if len(relative.parts) > 1 else ""
    own = "" if own == "__init__" else own
    if own in TOP:
        return
    assert own in LEVEL, f"{relative}: name its layer in LAYERS"
    for module in imported(parsed(path), ".".join(relative.parent.parts)):
        if module.split(".")[0] != "edgeprune":
            continue
        other = part(module)
        if other in RESOURCES:
            pytest.fail(f"{relative} imports {module}: read it through edgeprune.resources")
        if own == "cli" and other == "":
            continue  # the commands call what users call
        assert other != "", f"{relative} imports {module}: the package itself is above every layer"
        allowed = LEVEL[other] < LEVEL[own] or other == own or (own, other) in BESIDE
        assert allowed, f"{relative} imports {module}, which is not below it"


def name_of(path: Path) -> str:
    """The module that ``path`` holds, as an absolute name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def known(module: str, names: set[str]) -> str:
    """The module of ``names`` that ``module``, which may be a definition in it, is of; empty where there is none."""
    while module and module not in names:
        module = module.rpartition(".")[0]
    return module


@pytest.mark.parametrize("folder", ["edgeprune", "benchmarks"])
def test_no_modules_import_each_other(folder):
    """A package's ``__init__`` gathers its modules, which import each other directly: that is not a circle."""
    files = {name_of(path): path for path in sources(folder)}
    graph = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = {known(module, set(files)) for module in imported(parsed(path), package)} - {"", name}
        graph[name] = {other for other in found if not name.startswith(f"{other}.")}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", sources("targets") + sources("deploy") + sources("profiles"), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_runs_on_a_device_parses_as_python_3_9(path):
    parsed(path, feature_version=(3, 9))


@pytest.mark.parametrize("path", sources("targets"), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_runs_on_a_device_needs_the_standard_library_only(path):
    tree = parsed(path)
    package = ".".join(path.relative_to(ROOT).parent.parts)
    everywhere = list(imported(tree, package))
    assert not [module for module in everywhere if module.split(".")[0] == "edgeprune"], "the runner is shipped without edgeprune"
    lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or id(node) in lazy:
            continue
        for module in imported(node, package):
            top = module.split(".")[0]
            known = top in sys.stdlib_module_names or top in {"targets", "runner"}
            assert known, f"{path.relative_to(ROOT)}:{node.lineno} imports {module} when it is loaded, not when it is used"


def test_the_rule_sees_lazy_relative_and_computed_imports():
    text = "def f():\n    from . import a\n    from ..b import c\n    import d.e\n    import_module('edgeprune.cli')\n"
    assert list(imported(ast.parse(text), "edgeprune.graph.rules")) == [
        "edgeprune.graph.rules.a",
        "edgeprune.graph.b.c",
        "d.e",
        "edgeprune.cli",
    ]


@pytest.mark.parametrize("path", sources("edgeprune"), ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_is_imported_where_work_runs_alone(path):
    imports = {module.split(".")[0] for module in imported(parsed(path), ".".join(path.relative_to(ROOT).parent.parts))}
    assert "ray" not in imports or path.parent.name == "execute"
