"""What a pool saves: the time that one search spends measuring, with one board and with two, everything measured anew.

``python benchmarks/pool.py`` plays boards that take fixed times for what they are asked; with ``NAME,NAME`` it measures on real ones,
first on the first alone.  The search is that of ``recipes/digits.py`` at half the latency, without tuning.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from edgeprune import Budget, prune
from edgeprune.search import Options
from edgeprune.search.measure.board import Board
from edgeprune.task import Task, load_recipe

ROOT = Path(__file__).parents[1]
MEASURING = {"probe": "probe", "measure": "dense model", "time": "table", "compare": "pairs", "check_outputs": "outputs"}
SCALE = 0.1
KERNEL_S, DENSE_S, PAIR_S = 0.15, 6.0, 20.0
"""Seconds that a played board takes for a kernel, the dense model and a pair: assumed, not measured; ``SCALE`` of it is waited."""


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds in which any board is asked something, by what it is asked first; what happens between does not count."""
    lock, working, since = threading.Lock(), [0], ["", 0.0]

    def wrapped(name: str) -> Any:
        method = Board.__dict__[name]

        def measure(self: Any, *given: Any) -> Any:
            with lock:
                if not working[0]:
                    since[:] = MEASURING[name], time.monotonic()
                working[0] += 1
            try:
                return method(self, *given)
            finally:
                with lock:
                    working[0] -= 1
                    if not working[0]:
                        spent[since[0]] += time.monotonic() - since[1]

        return patch.object(Board, name, measure)

    with ExitStack() as patches:
        for name in MEASURING:
            patches.enter_context(wrapped(name))
        yield


def played(target: str, **given: Any) -> Any:
    """Times grow faster than a file, as no plan is predicted exactly; measuring takes the fixed times above."""
    sys.path.insert(0, str(ROOT / "tests"))
    from fake_device import SPREAD, FakeDevice

    class Slow(FakeDevice):
        def _measured(self, artifact: Any) -> Any:
            found = super()._measured(artifact)
            return replace(found, **{name: getattr(found, name) ** 1.4 for name in SPREAD})

        def measure(self, *given: Any) -> Any:
            time.sleep(SCALE * DENSE_S)
            return super().measure(*given)

        def compare(self, *given: Any) -> Any:
            time.sleep(SCALE * PAIR_S)
            return super().compare(*given)

        def table(self, files: dict[str, bytes], *given: Any) -> Any:
            time.sleep(SCALE * KERNEL_S * len(files))
            return super().table(files, *given)

    return Slow(target)


def search(task: Task, target: str) -> tuple[dict[str, float], Any]:
    """Seconds by what was measured, and the result, with caches of its own."""
    spent: dict[str, float] = defaultdict(float)
    options = Options(engine="tflite", formats=("tflite",), threads=1, epochs=0, objective="magnitude", reuse=False)
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder), timed(spent):
        result = prune(task, target, budget=Budget(latency="50%"), options=options, runs=Path(folder, "runs"))
    return spent, result


def main(arguments: Sequence[str]) -> None:
    """Print both."""
    targets = arguments[0] if arguments else "ssh://a,ssh://b"
    fixed = patch("edgeprune.search.measure.board.open_device", played)
    task = load_recipe(ROOT / "recipes/digits.py")
    if not arguments:
        fixed.start()
    for target in (targets.split(",")[0], targets):
        spent, result = search(task, target)
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
        print(f"{target}: {sum(spent.values()):.1f} s ({parts}); {len(result.figures.candidates)} plans, {result.verdict}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
