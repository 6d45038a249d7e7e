"""Which models edgeprune prunes: every model that torchvision lists, families of timm, and a zoo, half of every group, checked.

    python -m benchmarks.coverage                        # torchvision (classification, segmentation, detection, video, optical flow)
    python -m benchmarks.coverage --timm --zoo --transformers --export  # the others
    python -m benchmarks.coverage --only swin_t resnet18 --peers

Each model is analysed and cut in a process of its own, under a time and a memory limit; the rows are kept, and ``docs/coverage.md`` is
written from all of them. The exit code is 1 when a model fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.coverage.models import Case, timm_cases, torchvision_cases, transformers_cases, zoo_cases
from benchmarks.coverage.report import document
from benchmarks.coverage.run import Limits, Results, run_child, stop_children
from edgeprune.cli.output import progress

BENCHMARKS = Path(__file__).parents[1]
LIMITS = {"edgeprune": Limits(600, 10 * 2**30), "torch-pruning": Limits(60, 6 * 2**30), "export": Limits(900, 10 * 2**30)}
EXPORTED = ("resnet50", "mobilenet_v3_small", "shufflenet_v2_x1_0", "vit_b_32", "swin_t", "zoo/lstm", "zoo/hf_distilbert")
"""Pruned, exported to TFLite and TorchScript, and compared by ``--export``."""

Job = tuple[str, str]
"""(kind, model)"""


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", action="store_true", help="families of timm, in place of torchvision's models")
    parser.add_argument("--zoo", action="store_true", help="recurrent networks, Hugging Face, Keras, sensors")
    parser.add_argument("--transformers", action="store_true", help="families of Hugging Face's transformers, small")
    parser.add_argument("--export", action="store_true", help=f"prune and export {', '.join(EXPORTED)}")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these models, of any suite (timm/NAME, zoo/NAME, transformers/NAME for the others)"
    )
    parser.add_argument("--family", action="append", help="a table: classification, segmentation, detection, video, optical flow")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time [1]")
    parser.add_argument("--resume", action="store_true", help="skip what is measured with the present code")
    parser.add_argument("--missing", action="store_true", help="only what has no passing row, whichever code it was measured with")
    parser.add_argument("--peers", action="store_true", help="run Torch-Pruning beside it")
    parser.add_argument("--json", action="store_true", help="print the rows on stdout as one JSON document")
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results" / "coverage.jsonl", help="where rows are kept")
    parser.add_argument("--docs", type=Path, default=BENCHMARKS.parent / "docs" / "coverage.md", help="the document to write")
    options = parser.parse_args(given)
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    return options


def all_cases() -> dict[str, Case]:
    """Every known model by name, in the order of the document."""
    return {case.name: case for case in (*torchvision_cases(), *timm_cases(), *zoo_cases(), *transformers_cases())}


def jobs(options: argparse.Namespace, cases: dict[str, Case]) -> list[Job]:
    """What is to be measured; raises ``SystemExit`` with a message for an unknown name or family."""
    if options.only:
        chosen = list(dict.fromkeys(options.only))
    else:
        suites = [suite for suite in ("timm", "zoo", "transformers") if getattr(options, suite)] or (
            [] if options.export else ["torchvision"]
        )
        chosen = [name for name in cases if (name.partition("/")[0] if "/" in name else "torchvision") in suites]
    for what, unknown in (("model", set(chosen) - set(cases)), ("family", set(options.family or ()) - {c.family for c in cases.values()})):
        if unknown:
            raise SystemExit(f"unknown {what} {', '.join(sorted(unknown))}")
    if options.family:
        chosen = [name for name in chosen if cases[name].family in options.family]
    kinds = ["edgeprune", *(["torch-pruning"] if options.peers else [])]
    wanted = [(kind, name) for name in chosen for kind in kinds]
    if options.export:
        wanted += [("export", name) for name in EXPORTED if not options.only or name in options.only]
    return wanted


def measure(wanted: Sequence[Job], results: Results, at_a_time: int) -> None:
    """Run every job and keep its row; failures are said as they happen."""
    with progress() as bar, ThreadPoolExecutor(at_a_time) as pool:
        task = bar.add_task("coverage", total=len(wanted))
        running = {pool.submit(run_child, kind, name, LIMITS[kind]): (kind, name) for kind, name in wanted}
        try:
            for future in as_completed(running):
                row = future.result()
                results.add(row)
                verdict = row["error"] or row.get("outcome") or "pass"
                bar.console.print(f"{row['kind']} {row['model']}: {' '.join(verdict.split())[:160]}", highlight=False, markup=False)
                bar.update(task, advance=1, description=row["model"])
        except BaseException:  # interrupted, or told to end
            pool.shutdown(wait=False, cancel_futures=True)
            stop_children()
            raise


def main(given: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and write the document; 1 when a model fails."""
    options = arguments(given)
    cases, results = all_cases(), Results(options.results)
    wanted = jobs(options, cases)
    if options.peers:
        from benchmarks.coverage.peers import install

        install()
    todo = [job for job in wanted if not (options.resume and results.current(*job)) and not (options.missing and results.settled(*job))]
    measure(todo, results, options.jobs)
    options.docs.parent.mkdir(parents=True, exist_ok=True)
    options.docs.write_text(document(results, {name: case.family for name, case in cases.items()}))
    rows: list[dict[str, Any]] = [row for job in wanted if (row := results.get(*job)) is not None]
    if options.json:
        print(json.dumps(rows, indent=2))
    failed = [row["model"] for row in rows if row["error"] and row["kind"] != "torch-pruning"]
    print(f"{len(rows) - len(failed)} of {len(rows)} rows pass; {options.docs}", file=sys.stderr)
    return 1 if failed else 0
