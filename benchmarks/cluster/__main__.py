"""``python -m benchmarks.cluster``: cause every fault several times, and write results/cluster.json and the tables of docs/cluster.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from dataclasses import asdict
from datetime import date
from pathlib import Path

import psutil
import torch

from benchmarks.cluster import faults
from benchmarks.cluster.nodes import ray_cluster

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "cluster.json"
PAGE = ROOT / "docs" / "cluster.md"
BEGIN, END = "<!-- python -m benchmarks.cluster -->", "<!-- end -->"


def startups(times: int) -> list[dict[str, object]]:
    """Seconds until all workers have done their first work, which imports PyTorch, and MiB that each keeps."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(times):
        for name in ("2", "ray"):
            found.setdefault(name, []).append(faults.startup(name))
        with ray_cluster() as nodes:
            nodes.add()
            found.setdefault("ray://HOST", []).append(faults.startup(nodes.address))
    return [
        {
            "workers": name,
            "start_s": round(statistics.median(seconds for seconds, _ in runs), 1),
            "worker_mib": round(statistics.median(mib for _, mib in runs)),
        }
        for name, runs in found.items()
    ]


def caused(times: int) -> list[faults.Fault]:
    """Every fault, that many times."""
    found = []
    for _ in range(times):
        found += [faults.killed_worker("2"), faults.killed_driver("2")]
        with ray_cluster() as nodes:
            node = nodes.add()
            found += [faults.killed_worker(nodes.address), faults.killed_driver(nodes.address), faults.killed_node(nodes, node)]
        with ray_cluster() as nodes:
            nodes.add()
            found.append(faults.killed_head(nodes))
    return found


def tables(document: dict[str, object]) -> str:
    """Both tables, as the page has them."""
    starts = [[f"`--workers {row['workers']}`", f"{row['start_s']:g}", f"{row['worker_mib']}"] for row in document["startup"]]  # type: ignore[attr-defined]
    kinds: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in document["faults"]:  # type: ignore[attr-defined]
        kinds.setdefault((row["fault"], row["workers"]), []).append(row)
    lines = [
        [fault, f"`{where}`", rows[0]["lost"], ", ".join(f"{row['seconds']:g}" for row in rows), _result(rows)]
        for (fault, where), rows in kinds.items()
    ]
    return (
        f"Written by `python -m benchmarks.cluster`, measured {document['date']} on {document['machine']}, beside other work; "
        f"torch {document['torch']}, ray {document['ray']}.\n\n"
        + _table(["workers", "seconds until two have begun", "MiB of each"], starts)
        + "\n"
        + _table(["fault", "workers", "lost", "seconds until it went on, each time", "final result"], lines)
    )


def _result(rows: list[dict[str, object]]) -> str:
    if all(row["equal"] is None for row in rows):
        return str(rows[0]["end"])
    return "equal to the byte" if all(row["equal"] for row in rows) else "NOT EQUAL"


def _table(head: list[str], rows: list[list[object]]) -> str:
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
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
        import ray

        document = {
            "date": f"{date.today()}", "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
            f"{psutil.virtual_memory().total >> 30} GiB", "torch": torch.__version__, "ray": ray.__version__,
            "startup": startups(options.times), "faults": [asdict(fault) for fault in caused(options.times)],
        }  # fmt: skip
        RESULT.write_text(json.dumps(document, indent=2) + "\n")
    write_page(tables(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
