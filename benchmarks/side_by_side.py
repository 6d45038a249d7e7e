"""How much sooner a frontier is done when its levels are tuned side by side.

    OMP_NUM_THREADS=1 python benchmarks/side_by_side.py [RECIPE] [--workers 2,ray] [--epochs 8] [--rounds 1] [--target TARGET]

Sweeps five levels of the latency, in one process and with each of the workers in turns, in folders that are gone afterwards.  Prints a JSON
line for each sweep: seconds, processor seconds of this process and of the others that it waited for, how many times sooner it was done than
the one in one process, and whether the summaries are the same but for times.  The load of the machine stands beside them: times say little
where others compute.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeprune.runs.sweep import Frontier
from edgeprune.search import Options, frontier
from edgeprune.task import Task, load_recipe

LEVELS = ("80%", "65%", "50%", "40%", "30%")
PROFILE = "raspberry-pi-4"
OF_TIME = ("seconds", "created", "written_at")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default=str(Path(__file__).parents[1] / "recipes" / "digits.py"))
    parser.add_argument("--workers", default="2")
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engine", default="torchscript")
    parser.add_argument("--target")
    asked = parser.parse_args()
    task = load_recipe(asked.recipe)
    for _ in range(asked.rounds):
        alone: tuple[float, list[Any]] | None = None
        for workers in ("1", *asked.workers.split(",")):
            options = Options(engine=asked.engine, formats=(), epochs=asked.epochs, workers=workers, reuse=False)
            line, summaries = swept(task, options, asked.target)
            alone = alone or (line["seconds"], summaries)
            line |= {"times": round(alone[0] / line["seconds"], 2), "equal": summaries == alone[1]}
            print(json.dumps(line), flush=True)


def swept(task: Task, options: Options, target: str | None) -> tuple[dict[str, Any], list[Any]]:
    """A sweep: its figures, and the summaries of its levels without times."""
    with TemporaryDirectory(prefix="edgeprune-side-by-side-") as folder:
        before, begun = os.times(), time.monotonic()
        where = {"profile": PROFILE} if target is None else {"target": target}
        found: Frontier = frontier(task, **where, levels=LEVELS, options=options, runs=folder, listener=_shown)
        seconds, after = time.monotonic() - begun, os.times()
    mine = after.user + after.system - before.user - before.system
    others = after.children_user + after.children_system - before.children_user - before.children_system
    load = round(os.getloadavg()[1], 1)
    line = {"workers": options.workers, "seconds": round(seconds, 1), "cpu_s": round(mine, 1), "workers_cpu_s": round(others, 1)}
    return line | {"load": load, "cores": os.cpu_count()}, [_without_times(point.summary) for point in found.points]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(part) for name, part in value.items() if name not in OF_TIME}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def _shown(event: Any) -> None:
    if event.text is not None and os.environ.get("VERBOSE"):
        print(f"{time.strftime('%H:%M:%S')} {event.text}", file=sys.stderr)


if __name__ == "__main__":
    main()
