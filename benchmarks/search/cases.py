"""The matrix of the search benchmark, and the file its rows are kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
RECIPES = HERE.parent / "recipes"
RESULTS = HERE / "results" / "search"

BUDGETS = (0.7, 0.5, 0.3)
SEEDS = (0, 1, 2)
OWN = ("uniform", "global", "halp", "netadapt")
PEERS = ("tp-taylor", "tp-isomorphic", "fastnas")
ALONE = "edgeprune-sensitivity"
"""edgeprune without the choice among objectives."""

RECONSTRUCTED = "+r"
"""Ends the name of a method whose weights are reconstructed as edgeprune's are: widths and weights are told apart by it."""

METHODS = ("edgeprune", ALONE, *OWN, *PEERS, *(name + RECONSTRUCTED for name in OWN))

FULL = 0.96
"""A method is at the budget when its measured latency is between this share of it and all of it."""

Row = dict[str, Any]
Key = tuple[str, str, str, float, int]


@dataclass(frozen=True)
class Case:
    """``steps``: of fine-tuning, for every method. ``round_to``: what the peers' widths are multiples of, as fine as edgeprune's of the
    narrowest layers."""

    name: str
    recipe: Path
    steps: int
    round_to: int


CASES = {
    case.name: case
    for case in (
        Case("resnet20", RECIPES / "cifar10_resnet20.py", 120, 4),
        Case("resnet56", RECIPES / "cifar10_resnet56.py", 60, 4),
        Case("mobilenetv2", RECIPES / "cifar10_mobilenetv2.py", 80, 8),
        Case("dscnn", RECIPES / "fsdd.py", 120, 8),
        Case("vit", RECIPES / "speech_commands_vit.py", 120, 8),
    )
}


def key_of(row: Row) -> Key:
    """What a row is about: kind ("setup", "search", "tuned"), model, method, budget, seed."""
    return (row["kind"], row["model"], row.get("method", ""), row.get("budget", 0.0), row.get("seed", 0))


class Rows:
    """Rows in a file of JSON lines, appended and synced; the last one of a key counts, and a line that a kill cut short does not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[Key, Row] = {key_of(row): row for row in self._read()}

    def _read(self) -> Iterator[Row]:
        for line in self.path.read_text().splitlines() if self.path.is_file() else []:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def get(self, kind: str, model: str, method: str = "", budget: float = 0.0, seed: int = 0) -> Row | None:
        """The last row of that key."""
        return self._rows.get((kind, model, method, budget, seed))

    def of(self, kind: str) -> list[Row]:
        """All rows of a kind."""
        return [row for row in self._rows.values() if row["kind"] == kind]

    def add(self, row: Row) -> None:
        """Keep a row, at once."""
        self._rows[key_of(row)] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.is_file() or self.path.stat().st_size == 0 or self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write(("" if whole else "\n") + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def plan_of_work(models: list[str], methods: list[str], budgets: list[float], seeds: list[int]) -> list[tuple[int, str, float, str]]:
    """(seed, model, budget, method) in the order of work: the first seed of everything first."""
    return [(seed, model, budget, method) for seed in seeds for model in models for budget in budgets for method in methods]
