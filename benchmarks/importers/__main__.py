"""``python -m benchmarks.importers``: all files, one process each; a result that is kept is not measured again."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.importers.cases import NAMES, REAL
from benchmarks.importers.measure import SHARE, measure
from benchmarks.importers.peers import PEERS, peer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "importers-table.md"


def main() -> int:
    """0 when every file was imported, analysed and cut."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.importers", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("importers-files"), help="where files and results are kept")
    parser.add_argument("--packages", type=Path, default=Path("importers-packages"), help="unpacked packages of real networks")
    parser.add_argument("--only", action="append", help="a file's name")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has onnx2torch and onnx2pytorch")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.folder, options.packages)))
        return 0
    kept = options.folder / "results.jsonl"
    rows = {row["name"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.is_file() else {}
    for name in options.only or NAMES:
        row = rows.get(name) or _child(name, options)
        if options.peers and "error" not in row and not all(package in row for package in PEERS):
            real = REAL.get(name)
            shapes = {key: list(sizes) for key, sizes in real.shapes.items()} if real else {}
            row |= {package: peer(package, row["file"], shapes, real.constants if real else {}, options.peers) for package in PEERS}
        rows[name] = row
        print(name, row.get("error") or f"{row['difference']:.0e}", flush=True)
        options.folder.mkdir(parents=True, exist_ok=True)
        kept.write_text("".join(json.dumps(one) + "\n" for one in rows.values()))
    PAGE.write_text(document([rows[name] for name in NAMES if name in rows], versions(options.peers) if options.peers else ""))
    return int(any("error" in row for row in rows.values()))


def versions(python: str) -> str:
    """Of the other converters, as ``python`` has them."""
    code = f"from importlib.metadata import version; print(' and '.join(f'{{name}} {{version(name)}}' for name in {PEERS!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _child(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.importers", "--child", name, "--folder", options.folder, "--packages", options.packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "error": "took over 900 s"}
    if done.returncode:
        return {"name": name, "error": (done.stderr.strip().splitlines() or ["crashed"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def document(rows: list[dict[str, Any]], versions: str = "") -> str:
    """The page; ``versions``: of the other converters."""
    good = [row for row in rows if "error" not in row]
    lines = [
        "# Imported files",
        "",
        f"`python -m benchmarks.importers` imports {len(rows)} ONNX files, compares each with ONNX Runtime and analyses it.",
        f"Then it cuts every group of channels to {100 * SHARE:.0f} %, chosen at random, and checks the cut against the original with the",
        "removed channels at zero.",
        f"{len(good)} of {len(rows)} files pass all of it.",
        "The networks that torch exports have random weights; the others are as their packages have them.",
        "",
        "Difference: the largest of any output from ONNX Runtime's, as a share of its magnitude.",
        "The two last columns say what other converters make of the same file: yes means that it converts, agrees to 1e-4, and that",
        "`torch.export` takes it.",
        "",
        "| file | written by | operator set | difference | any batch | groups | parameters left | onnx2torch | onnx2pytorch |",
        "| --- | --- | --: | --: | --- | --: | --: | --- | --- |",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | | | {row['error']} | | | | | |")
            continue
        left = f"{100 * row['left'] / row['parameters']:.0f} %" if "left" in row else "nothing to cut"
        peers = " | ".join(row.get(package, "") for package in PEERS)
        batch = "yes" if row["any_batch"] else "no"
        lines.append(
            f"| {row['name']} | {row['origin']} | {row['opset']} | {row['difference']:.0e} | {batch} | {row['groups']} | {left} | {peers} |"
        )
    packages = sorted({row["package"] for row in good if row["package"]})
    counts = {package: sum(row.get(package) == "yes" for row in rows) for package in PEERS}
    if any(package in row for row in rows for package in PEERS):
        lines += ["", f"The other converters are {versions or ' and '.join(PEERS)}, beside the same versions of torch and onnx."]
        tried = sum(PEERS[0] in row for row in rows)
        done = ", ".join(f"{package} for {count}" for package, count in counts.items())
        lines += ["", f"Of {tried} files that they were tried on, they do all of it for: {done}."]
    lines += ["", f"Real networks are from {', '.join(packages)}." if packages else ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
