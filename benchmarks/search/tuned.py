"""Keeps what a finished long run of ``edgeprune prune`` reached, for the section on long tuning of docs/search.md.

edgeprune prune recipes/cifar10_resnet20.py --target local: --latency 50% --epochs 30
python -m benchmarks.search.tuned runs/cifar10_resnet20-...     # adds a row to benchmarks/results/search/tuned.jsonl
python -m benchmarks.search --render
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.search.cases import RESULTS, Row
from edgeprune.files import append_line
from edgeprune.runs.document import read_document
from edgeprune.runs.summary import read_summary

FILE = RESULTS / "tuned.jsonl"

PUBLISHED: tuple[tuple[str, str, float | None, float, float], ...] = (
    ("Torch-Pruning, group sparsity (Fang et al., 2023)", "ResNet-56", 93.53, 93.77, 2.13),
    ("ResRep (Ding et al., 2021)", "ResNet-56", None, 93.71, 2.12),
)
"""Method, network, accuracy before (where it is known) and after, and how many times fewer multiply-accumulates: of the 10,000 test images,
trained on all 50,000 training images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run directory")
    append_line(FILE, json.dumps(row_of(parser.parse_args().run)))


def row_of(run: Path) -> Row:
    """The figures of a finished run.  Raises :class:`RunError` when it has no result."""
    found = read_summary(run)
    assert found.ratio is not None, "a run with a target measures the ratio"
    return {
        "model": found.task,
        "epochs": found.history[-1].epoch,
        "dense": [found.dense.metric, found.dense.metric_error, found.dense.macs, found.dense.latency_ms],
        "pruned": [found.pruned.metric, found.pruned.metric_error, found.pruned.macs, found.pruned.latency_ms],
        "ratio": [found.ratio.value, found.ratio.low, found.ratio.high],
        "device": f"{found.device['device']}, {found.device['runtime']}, {found.device['threads']:g} threads",
        "torch": found.versions["torch"],
        "date": str(read_document(run)["created"]).split()[0],
        "seconds": found.seconds["total"],
    }


def read(path: Path = FILE) -> list[Row]:
    """The rows that were kept."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
