"""How far the medians of one model lie apart when each comes from a session of its own, and how often `compare` then errs.

Measures a dense layer of three sizes (or the files given) ``--sessions`` times on this machine, each time in a new session, in turns.
Prints the standard deviation of the medians' logarithms (``ASSUMED`` in ``edgeprune/bench/compare.py``) and the share of all
pairs of sessions that `compare` calls different: without a spread between sessions, and with the one assumed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
from pathlib import Path

import numpy as np

from edgeprune.bench import Artifact, BenchOptions, Measurement, open_device
from edgeprune.bench.compare import ASSUMED, Spread, between_sessions
from edgeprune.testing.models import dense_tflite


def made(folder: Path) -> list[Path]:
    """Dense layers of 64 kB, 1 MB and 16 MB."""
    paths = []
    for size in (128, 512, 2048):
        path = folder / f"dense{size}.tflite"
        path.write_bytes(dense_tflite(np.ones((size, size), np.float32)))
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    options = BenchOptions(threads=arguments.threads, energy=False)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = [Artifact(path) for path in arguments.models or made(Path(folder))]
        found: dict[str, list[Measurement]] = {artifact.name: [] for artifact in artifacts}
        for _ in range(arguments.sessions):
            for artifact in artifacts:
                with open_device("local:", engine=artifact.engine) as device:
                    found[artifact.name] += device.measure([artifact], options)
    variances: list[float] = []
    wrong = {"without": 0, "with": 0}
    total = 0
    for name, items in found.items():
        logs = [math.log(item.latency_ms) for item in items]
        variances.append(statistics.variance(logs))
        pairs = list(itertools.combinations(items, 2))
        for way, spread in (("without", Spread(0.0)), ("with", ASSUMED)):
            verdicts = [between_sessions(a, b, force=True, spread=spread).ratio.verdict for a, b in pairs]
            wrong[way] += sum(verdict in ("faster", "slower") for verdict in verdicts)
        total += len(pairs)
        print(f"{name:28} median {math.exp(statistics.median(logs)):.4f} ms, deviation between sessions {variances[-1] ** 0.5:.2%}")
    print(f"pooled deviation {statistics.mean(variances) ** 0.5:.2%}")
    for way, count in wrong.items():
        print(f"called different {way} a spread between sessions: {count} of {total} pairs ({count / total:.1%})")


if __name__ == "__main__":
    main()
