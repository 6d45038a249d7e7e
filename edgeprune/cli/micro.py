"""``edgeprune micro``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.exit_codes import Exit
from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json

if TYPE_CHECKING:
    from edgeprune.decode import JsonObject
    from edgeprune.micro import Arena, MicroGraph
    from edgeprune.micro.flash import Flash
    from edgeprune.profile import Profile


@click.command(short_help="Check a TFLite file for a microcontroller, and write it as a C array.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the C array and its header.")
@click.option("--name", default="model", show_default=True, metavar="C_NAME", help="Name of the C files, and prefix of their symbols.")
@click.option("--profile", metavar="NAME", help="Microcontroller to predict the latency for. The model must fit its RAM and flash.")
@json_option
def command(file: Path, out: Path | None, name: str, profile: str | None, as_json: bool) -> int:
    """Check the operators of FILE (a TFLite model, best int8) against TFLite Micro's, and measure its arena with tflite-micro.

    The exit code is 0 if every operator runs and, with --profile, the model fits the memory.
    """
    from edgeprune.errors import InputError
    from edgeprune.micro import estimate_flash, macs_of, measure_arena, read_graph, write_c_array

    known = _profile(profile)
    if not file.is_file():
        why = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"model {file} {why}", remedy="Give a TFLite file: edgeprune export --format tflite-int8 writes one.")
    content = file.read_bytes()
    graph, arena = read_graph(content, file.name), measure_arena(content, file.name)
    flash = estimate_flash(graph, len(content))
    on_profile = _on_profile(known, graph, arena.needed_bytes, flash.total_bytes) if known is not None else None
    paths = write_c_array(content, out, name, arena) if out is not None else []
    document: JsonObject = {
        "file": file,
        "arena": asdict(arena),
        "flash": asdict(flash) | {"total_bytes": flash.total_bytes},
        "operators": dict(Counter(operator.name for operator in graph.operators)),
        "resource_variables": graph.resource_variables,
        "macs": macs_of(graph),
        "inputs": [tensor.describe() for tensor in graph.inputs],
        "outputs": [tensor.describe() for tensor in graph.outputs],
        "c_files": paths,
    }
    if as_json:
        print_json(document | (asdict(on_profile) if on_profile else {}))
    else:
        _show(graph, arena, flash, on_profile, paths)
    return 0 if on_profile is None or all(fit is not False for fit in on_profile.fits.values()) else Exit.MISSED


@dataclass(frozen=True)
class OnProfile:
    """What is predicted for a microcontroller.  ``fits``: by kind of memory; None where the profile does not say how much there is."""

    profile: str
    latency_ms: float | None
    latency_method: str
    fits: dict[str, bool | None]


def _profile(name: str | None) -> Profile | None:
    from edgeprune.errors import ProfileError
    from edgeprune.profile import load, names

    if name is None:
        return None
    profile = load(name)
    if not profile.micro:
        micro = [entry for entry in names() if load(entry).micro]
        raise ProfileError(f"{profile.name} is not a microcontroller", remedy=f"Microcontrollers: {', '.join(micro)}.")
    return profile


def _on_profile(profile: Profile, graph: MicroGraph, arena_bytes: int, flash_bytes: int) -> OnProfile:
    """The predicted latency, and whether arena and flash fit: None where the profile does not say how much there is."""
    from edgeprune.micro import is_int8, predict_ms

    memory = profile.memory
    method = f"predicted from {profile.prior.runtime}, not measured" if profile.prior else "not known"
    published = is_int8(graph)
    if profile.prior and not published:
        method = "not known: the published figures are of int8 kernels, and this file has others (export tflite-int8)"
    fits = {
        "ram": None if memory.bytes is None else arena_bytes <= memory.bytes,
        "flash": None if memory.flash_bytes is None else flash_bytes <= memory.flash_bytes,
    }
    return OnProfile(profile.name, predict_ms(graph, profile) if profile.prior and published else None, method, fits)


def _show(graph: MicroGraph, arena: Arena, flash: Flash, on_profile: OnProfile | None, paths: Sequence[Path]) -> None:
    from edgeprune.budget import format_quantity
    from edgeprune.micro import macs_of

    out = console()

    def line(name: str, text: str) -> None:
        out.print(f"{name:10} {text}", highlight=False, soft_wrap=True)

    operators = Counter(operator.name for operator in graph.operators)
    line("operators", ", ".join(f"{name} x {count}" for name, count in operators.items()) + ": TFLite Micro runs them all")
    if graph.resource_variables:
        line("state", f"{graph.resource_variables} resource variables: the interpreter needs MicroResourceVariables, as the header says")
    line("arena", f"{arena.needed_bytes} B needed, {arena.used_bytes} B used: measured with tflite-micro {arena.version}")
    line("flash", f"{flash.total_bytes} B: file {flash.file_bytes} B + code {flash.code_bytes} B, estimated ({flash.method})")
    line("work", f"{macs_of(graph):.0f} multiply-accumulates")
    if on_profile is not None:
        latency = "" if on_profile.latency_ms is None else f"{format_quantity('latency', on_profile.latency_ms)}, "
        line("latency", f"{latency}{on_profile.latency_method}")
        words = {True: "fits", False: "does not fit", None: "not judged: the profile does not say how much there is"}
        for kind, fits in on_profile.fits.items():
            line(kind, f"{words[fits]} ({on_profile.profile})")
    for path in paths:
        line("C", str(path))
