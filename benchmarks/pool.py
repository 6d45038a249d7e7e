"""What a pool saves: the time that one search spends measuring, with one board and with two, everything measured anew.

``python benchmarks/pool.py`` plays boards that take fixed times for what they are asked; with ``NAME,NAME`` it measures on real ones,
first on the first alone; with ``sshd``, which needs root, on two OpenSSH servers of this machine, each of a user and a core of its own.
The search is that of ``recipes/digits.py`` at half the latency, without tuning.

Besides the seconds it counts the rounds of all comparisons, and those that the busiest board did: what else runs on the machine changes
the seconds, not these.
"""

from __future__ import annotations

import os
import secrets
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
from edgeprune.bench import Ratio
from edgeprune.search import Options
from edgeprune.search.measure.board import Board
from edgeprune.task import Task, load_recipe

ROOT = Path(__file__).parents[1]
MEASURING = {
    "probe": "probe",
    "measure": "dense model",
    "time": "table",
    "compare": "pairs",
    "one_round": "pairs",
    "check_outputs": "outputs",
}
SCALE = 0.1
KERNEL_S, DENSE_S, ROUND_S = 0.15, 6.0, 2.5
"""Seconds that a played board takes for a kernel, the dense model and a round: assumed, not measured; ``SCALE`` of it is waited."""


@contextmanager
def timed(spent: dict[str, float], rounds: dict[str, int]) -> Iterator[None]:
    """Add up the seconds in which any board is asked something, by what it is asked first; what happens between does not count.  And
    ``rounds`` by board."""
    lock, working, since = threading.Lock(), [0], ["", 0.0]

    def wrapped(name: str) -> Any:
        method = Board.__dict__[name]

        def measure(self: Any, *given: Any) -> Any:
            with lock:
                if not working[0]:
                    since[:] = MEASURING[name], time.monotonic()
                working[0] += 1
            try:
                found = method(self, *given)
                with lock:
                    rounds[self.target] += len(getattr(found, "log_ratios", ()))
                return found
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

        def compare(self, dense: Any, candidates: Any, options: Any) -> Any:
            count = 1 if options.only_round is not None else 3 if options.stop_at is not None else options.rounds
            time.sleep(SCALE * ROUND_S * count)
            found = super().compare(dense, candidates, replace(options, only_round=0))
            return replace(found, ratios=(Ratio.of_rounds("pruned", count * found.ratios[0].log_ratios),))

        def table(self, files: dict[str, bytes], *given: Any) -> Any:
            time.sleep(SCALE * KERNEL_S * len(files))
            return super().table(files, *given)

    return Slow(target)


@contextmanager
def served() -> Iterator[str]:
    """Two servers that are boards, by names of theirs; the user's own names and keys are out of the way meanwhile."""
    from edgeprune.devices import add_target
    from edgeprune.testing.sshd import SshServer, own_machine

    with TemporaryDirectory() as folder, ExitStack() as stack:
        home, names = Path(folder), ("board-a", "board-b")
        environment = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
        made = []
        for core, name in enumerate(names):
            enter = ["taskset", "-c", str(core), *own_machine(home / name, secrets.token_hex(16))]
            made.append(stack.enter_context(SshServer(enter=enter)))
            made[-1].make_python()
        stack.enter_context(patch.dict(os.environ, environment))
        for name, server in zip(names, made, strict=True):
            (home / f"{name}.known_hosts").write_text(server.host_key)
            (home / ".ssh").mkdir(exist_ok=True)
            with (home / ".ssh/config").open("a") as config:
                config.write(
                    f"Host {name}\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n  IdentityFile {server.key}\n"
                )
            add_target(name, f"ssh://{name}?known_hosts={home / name}.known_hosts")
        stack.enter_context(patch("edgeprune.search.measure.pool.ALIKE", 0.95))  # two boards that are one busy machine
        yield ",".join(names)


def search(task: Task, target: str) -> tuple[dict[str, float], dict[str, int], Any]:
    """Seconds by what was measured, rounds by board, and the result, with caches of its own."""
    spent: dict[str, float] = defaultdict(float)
    rounds: dict[str, int] = defaultdict(int)
    options = Options(engine="tflite", formats=("tflite",), threads=1, epochs=0, objective="magnitude", reuse=False)
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder), timed(spent, rounds):
        result = prune(task, target, budget=Budget(latency="50%"), options=options, runs=Path(folder, "runs"))
    return spent, rounds, result


def main(arguments: Sequence[str]) -> None:
    """Print both."""
    targets = arguments[0] if arguments else "ssh://a,ssh://b"
    task = load_recipe(ROOT / "recipes/digits.py")
    with ExitStack() as stack:
        if not arguments:
            stack.enter_context(patch("edgeprune.search.measure.board.open_device", played))
        elif targets == "sshd":
            targets = stack.enter_context(served())
        for target in (targets.split(",")[0], targets):
            spent, rounds, result = search(task, target)
            parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
            print(f"{target}: {sum(spent.values()):.1f} s ({parts}); {len(result.figures.candidates)} plans, {result.verdict}", flush=True)
            print(f"  rounds: {sum(rounds.values())}, of the busiest board {max(rounds.values())}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
