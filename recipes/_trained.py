"""Networks that a recipe trains itself: once, when they are first wanted, and then kept in the user's cache."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import nn

from edgeprune.task import Task
from edgeprune.tuning import finetune


def trained(
    recipe: str, network: Callable[[], nn.Module], lesson: Callable[[nn.Module], Task], teacher: nn.Module | None = None
) -> nn.Module:
    """The network that ``network()`` makes, trained as ``lesson(model)`` says, in evaluation mode; the same one each time.

    ``recipe``: the recipe's ``__file__``. The training is kept under the user's cache folder, ``recipes/<recipe>-<hash>.safetensors``,
    epoch by epoch: an interrupted one continues there, a finished one is only read. Progress goes to stderr.
    """
    path = Path(recipe)
    kept = user_cache_path("edgeprune") / "recipes" / f"{path.stem}-{fingerprint(path.read_text())}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = network()
    shown = 0

    def progress(done: int, total: int, loss: float) -> None:
        nonlocal shown
        tenth = 10 * done // total
        if tenth > shown:
            print(f"training {path.stem} (once, kept in {kept.parent}): {10 * tenth} %, loss {loss:.3f}", file=sys.stderr, flush=True)
        shown = tenth

    finetune(model, lesson(model), teacher=teacher, on_progress=progress, checkpoint=kept)
    return model.eval()


def trained_task(
    recipe: str,
    network: Callable[[], nn.Module],
    make_task: Callable[[nn.Module], Task],
    lesson: Mapping[str, float],
    teacher: nn.Module | None = None,
    **tuning: Any,
) -> Task:
    """The task that ``make_task`` makes of the network, trained once: how most recipes end.

    ``lesson``: fields of the task that trains the network, such as ``epochs`` and ``learning_rate``; ``tuning``: fields of the task that is
    pruned. Both are as ``make_task`` has them unless given. ``recipe``, ``network``, ``teacher``: see :func:`trained`.
    """
    model = trained(recipe, network, lambda model: replace(make_task(model), validation=None, **lesson), teacher)
    return replace(make_task(model), **tuning)


def fingerprint(source: str) -> str:
    """A hash of all that a recipe does, but for its function ``task``: comments, docstrings and fine-tuning do not train again."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "task")]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]
