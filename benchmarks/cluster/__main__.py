"""``python -m benchmarks.cluster``: cause every fault several times, and write results/cluster.json and the tables of docs/cluster.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.cluster import faults
from benchmarks.cluster.nodes import ray_cluster

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "cluster.json"
PAGE = ROOT / "docs" / "cluster.md"
BEGIN, END = "<!-- python -m benchmarks.cluster -->", "<!-- end -->"


def stages(document: dict[str, Any], times: int) -> Iterator[None]:
    """Every start and every fault, that many times."""
    starts: dict[str, list[tuple[float, float]]] = document["startup"]

    def caused(*found: faults.Fault) -> None:
        document["faults"] += [asdict(fault) for fault in found]

    for _ in range(times):
        starts.setdefault("2", []).append(faults.startup("2"))
        caused(faults.killed_worker("2"), faults.killed_driver("2"))
    yield
    for turn in range(times):
        with ray_cluster() as nodes:
            node = nodes.add()
            for _ in range(times if turn == 0 else 0):
                starts.setdefault("ray://HOST", []).append(faults.startup(nodes.address))
                caused(faults.killed_worker(nodes.address), faults.killed_driver(nodes.address), faults.killed_node(nodes, node))
                node = nodes.add()
                yield
            caused(faults.killed_head(nodes))
        yield
    for _ in range(times):
        starts.setdefault("ray", []).append(faults.startup("ray"))
        yield


def tables(document: dict[str, Any]) -> str:
    """Both tables, as the page has them."""
    starts = [
        [f"`--workers {name}`", ", ".join(f"{seconds:.1f}" for seconds, _ in runs), f"{statistics.median(mib for _, mib in runs):.0f}"]
        for name, runs in document["startup"].items()
    ]
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in document["faults"]:
        kinds.setdefault((row["fault"], row["workers"]), []).append(row)
    lines = [
        [fault, f"`{where}`", rows[0]["lost"], ", ".join(f"{row['seconds']:g}" for row in rows), _result(rows)]
        for (fault, where), rows in kinds.items()
    ]
    return (
        f"Written by `python -m benchmarks.cluster`, measured {document['date']} on {document['machine']}, beside other work; "
        f"torch {document['torch']}, ray {document['ray']}.\n\n"
        + _table(["workers", "seconds until two have worked, each time", "MiB of each"], starts)
        + "\n"
        + _table(["fault", "workers", "lost", "seconds until it went on, each time", "final result"], lines)
    )


def _result(rows: list[dict[str, Any]]) -> str:
    if all(row["equal"] is None for row in rows):
        return str(rows[0]["end"])
    return "equal to the byte" if all(row["equal"] for row in rows) else "NOT EQUAL"


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines) + "\n"


def write_page(text: str) -> None:
    """Put the tables between their marks in the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Measure, keep and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="how often each fault is caused [3]")
    parser.add_argument("--write-only", action="store_true", help="write the page from the results that are there")
    options = parser.parse_args()
    if not options.write_only:
        cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total >> 30
        document: dict[str, Any] = {
            "date": f"{date.today()}", "machine": f"{platform.machine()}, {cores} cores, {memory} GiB",
            "torch": torch.__version__, "ray": version("ray"), "startup": {}, "faults": [],
        }  # fmt: skip
        for _ in stages(document, options.times):
            RESULT.write_text(json.dumps(document, indent=2) + "\n")
    write_page(tables(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
