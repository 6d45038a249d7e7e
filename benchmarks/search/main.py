"""edgeprune against other ways to choose widths: the same weights, the same device, the same measured latency, the same fine-tuning.

    pip install -e .[dev,bench]
    python -m benchmarks.search --models resnet20 --budgets 0.5 --seeds 0     # a part of the matrix
    python -m benchmarks.search --minutes 60                                  # as much as an hour allows
    python -m benchmarks.search --render                                      # docs/search.md from the rows

Every method is brought to 70, 50 and 30 % of the dense model's measured latency (TFLite, one thread, in turns with the dense model), then
fine-tuned equally. Rows go to ``benchmarks/results/search/<model>.jsonl``; what is there is not done again. Data: see ``recipes``. Progress
is on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.search.cases import BUDGETS, CASES, METHODS, RESULTS, SEEDS, Row, Rows, plan_of_work
from benchmarks.search.methods import Methods
from benchmarks.search.session import Session
from edgeprune.errors import RecipeError, TransientError
from edgeprune.export import warm

ATTEMPTS = 4
"""How often one piece of work is begun while the device is busy: each time waits ten minutes."""


def main() -> int:
    options = parsed()
    if options.render:
        from benchmarks.search.report import write

        print(write(options.results, options.docs), file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * options.minutes if options.minutes else None
    matrix = Matrix(options.target, options.results, options.redo)
    try:
        for seed, model, budget, method in plan_of_work(options.models, options.methods, options.budgets, options.seeds):
            if until is not None and time.monotonic() > until:
                print("the time is up; the same command continues", file=sys.stderr)
                break
            matrix.insist(model, method, budget, seed, options.steps)
    finally:
        matrix.close()
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"type": lambda text: text.split(",")}
    parser.add_argument("--models", default=list(CASES), help=f"of {','.join(CASES)}", **several)
    parser.add_argument("--methods", default=list(METHODS), help=f"of {','.join(METHODS)}", **several)
    parser.add_argument("--budgets", default=list(BUDGETS), type=lambda text: [float(value) for value in text.split(",")])
    parser.add_argument("--seeds", default=list(SEEDS), type=lambda text: [int(value) for value in text.split(",")])
    parser.add_argument("--steps", type=int, help="of fine-tuning; each model has its own unless given")
    parser.add_argument("--minutes", type=float, help="begin nothing new after that many")
    parser.add_argument("--redo", action="store_true", help="do again what has rows")
    parser.add_argument("--target", default="local:")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[2] / "docs")
    parser.add_argument("--render", action="store_true", help="write docs/search.md and do nothing else")
    options = parser.parse_args()
    for given, known in ((options.models, CASES), (options.methods, METHODS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return options


class Matrix:
    """Works through rows; keeps one model's session open."""

    def __init__(self, target: str, results: Path, redo: bool) -> None:
        self.target, self.results, self.redo = target, results, redo
        self.session: Session | None = None
        self.methods: Methods
        self.rows: Rows
        self._missing: set[str] = set()

    def insist(self, model: str, method: str, budget: float, seed: int, steps: int | None) -> None:
        """:meth:`work`, begun again while other users hold the device."""
        for attempt in range(ATTEMPTS):
            try:
                return self.work(model, method, budget, seed, steps)
            except TransientError as error:
                print(f"{model}, {method}: {error.message}", file=sys.stderr)
                self.close()
                if attempt == ATTEMPTS - 1:
                    raise

    def work(self, model: str, method: str, budget: float, seed: int, steps: int | None) -> None:
        """Make sure of one row."""
        if model in self._missing or (not self.redo and Rows(self.results / f"{model}.jsonl").get("tuned", model, method, budget, seed)):
            return
        try:
            self._open(model)
        except RecipeError as error:
            print(f"{model} is left out: {error}", file=sys.stderr)
            self._missing.add(model)
            return
        search = self.methods.search(method, budget, again=self.redo and seed == min(SEEDS))
        if search["error"]:
            print(f"{model}, {method} at {100 * budget:g} %: {search['error']}", file=sys.stderr)
            return
        self._tune(method, budget, seed, steps or CASES[model].steps, search)

    def _tune(self, method: str, budget: float, seed: int, steps: int, search: Row) -> None:
        session = self.session
        assert session is not None
        session.restart_data()
        model = self.methods.model(method, budget)
        before, started = session.evaluate(model), time.perf_counter()
        done = session.tune(model, seed, steps)
        seconds, after = time.perf_counter() - started, session.evaluate(model)
        taken = {name: search[name] for name in ("error", "ratio", "low", "high", "latency_ms", "measurements", "macs", "parameters")}
        row = {"kind": "tuned", "method": method, "budget": budget, "seed": seed, "steps": done, "seconds": seconds}
        self.rows.add(row | taken | {"dense": session.dense_scores, "before": before, "after": after} | session.provenance())
        session.notes.note(
            f"{method} at {100 * budget:g} % ({100 * taken['ratio']:.1f} % measured), seed {seed}: {before['accuracy']:.1f} before, "
            f"{after['accuracy']:.1f} after {done} steps, divergence {before['divergence']:.3f}, {after['divergence']:.3f}"
        )

    def _open(self, model: str) -> None:
        if self.session is not None and self.session.case.name == model:
            return
        self.close()
        warm()
        self.session = session = Session(CASES[model], self.target)
        self.rows = Rows(self.results / f"{model}.jsonl")
        self.methods = Methods(session, self.rows)
        self.methods.recall_observed()
        if self.rows.get("setup", model) is None:
            table = {"kernels": session.kernels, "prepare_s": session.prepare_s, "dense_ms": session.dense.latency_ms}
            self.rows.add({"kind": "setup"} | table | {"dense": session.dense_scores} | session.provenance())

    def close(self) -> None:
        """Free the device."""
        if self.session is not None:
            self.session.close()
            self.session = None
