"""Options that commands share."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import click

from edgeprune.budget import latency_for, parse_limit

F = TypeVar("F", bound=Callable[..., Any] | click.Command)


@dataclass
class Settings:
    """What holds for the whole call: the ``obj`` of the root context.  ``json``: a document is wanted; ``printed``: there is one."""

    debug: bool = False
    json: bool = False
    printed: bool = False


def debug_option(function: F) -> F:
    """Add ``--debug``, which sets :class:`Settings` and is passed to no command."""

    def set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Settings).debug = True
            logging.getLogger().setLevel(logging.DEBUG)

    text = "Show tracebacks and the log."
    return click.option("--debug", is_flag=True, expose_value=False, callback=set_debug, is_eager=True, help=text)(function)


def list_unless_asked(context: click.Context, listing: click.Command, as_json: bool) -> None:
    """What a group does by itself: its ``listing``, where none of its commands is asked for; ``--json`` belongs to the command then."""
    asked = context.invoked_subcommand
    if asked is None:
        context.invoke(listing, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json stands after {asked}: edgeprune {context.info_name} {asked} --json")


def json_option(function: F) -> F:
    """Add ``--json``, passed as ``as_json``. With it all prints go to stderr, but :func:`~edgeprune.cli.output.print_json`."""

    def keep_stdout(context: click.Context, _: click.Parameter, value: bool) -> bool:
        if value:
            context.meta["edgeprune.stdout"] = sys.stdout
            context.with_resource(contextlib.redirect_stdout(sys.stderr))
        return value

    text = "Print one JSON document on stdout, and nothing else."
    return click.option("--json", "as_json", is_flag=True, callback=keep_stdout, help=text)(function)


def volume_options(function: F) -> F:
    """Add ``--quiet`` and ``--verbose``, which :func:`volume` returns and no command gets."""

    def keep(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
        def kept(context: click.Context, _: click.Parameter, value: bool) -> None:
            if value and context.meta.setdefault("edgeprune.volume", name) != name:
                raise click.UsageError("--quiet and --verbose exclude each other.", context)

        return kept

    loud = click.option("--verbose", is_flag=True, expose_value=False, callback=keep("verbose"), help="Show every step.")
    still = click.option("--quiet", is_flag=True, expose_value=False, callback=keep("quiet"), help="Show warnings and the result only.")
    return still(loud(function))


def volume() -> Literal["quiet", "normal", "verbose"]:
    """How much the command that runs shall tell."""
    context = click.get_current_context(silent=True)
    found: Literal["quiet", "normal", "verbose"] = context.meta.get("edgeprune.volume", "normal") if context else "normal"
    return found


def device_option(function: F) -> F:
    """Add ``--device``: what this machine computes on."""
    text = "What this machine computes on: auto, cpu, cuda, cuda:1, mps; cuda:0,cuda:1 or cpu:2 share the training [default: the task's]."
    return click.option("--device", metavar="NAME", help=text)(function)


def accelerator_option(function: F) -> F:
    """Add ``--accelerator``: what of the device runs the models; None unless given."""

    def check(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
        from edgeprune.bench.results import check_accelerator

        check_accelerator(value)
        return value

    text = (
        "What of the device runs models: cpu, gpu, npu, a provider such as openvino, a delegate's path [default: the target's, else cpu]."
    )
    return click.option("--accelerator", metavar="NAME", callback=check, help=text)(function)


def workers_options(function: F) -> F:
    """Add ``--workers`` (see :func:`edgeprune.execute.parse_workers`) and ``--gpus-per-candidate``, passed as ``workers`` and
    ``gpus_per_candidate``; each None unless given."""

    def check(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
        from edgeprune.execute import parse_workers

        parse_workers(value)
        return value

    where = "Where models are made and tuned: 4 (processes), ray, or ray://HOST:PORT of a cluster that runs [default: this process]."
    gpus = "CUDA devices of each piece of such work, or the part of one [default: none is reserved]."
    function = click.option("--gpus-per-candidate", type=click.FloatRange(0, min_open=True), metavar="NUMBER", help=gpus)(function)
    return click.option("--workers", metavar="WHERE", callback=check, help=where)(function)


def seed_option(function: F) -> F:
    """Add ``--seed``."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Random seed.")(function)


def history_option(function: F) -> F:
    """Add ``--history URL``, passed as ``history``: the database of results, or None when it is off."""

    def settle(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
        from edgeprune.bench.history import history_url
        from edgeprune.bench.schema import check_address

        url = history_url(value)
        if url is not None:
            check_address(url)
        return url

    text = "Database of results (an SQLAlchemy address), or off [default: EDGEPRUNE_HISTORY, else a file in the user's data folder]."
    return click.option("--history", metavar="URL", callback=settle, help=text)(function)


def budget_options(function: F) -> F:
    """Add an option for every kind of limit (quantities with units, or percentages) and ``--max-drop`` (a number)."""

    def check(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            parse_limit(str(parameter.name), value)
        return value

    def check_throughput(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            click.echo(f"throughput {value}: inferences run one after the other, so this is --latency {latency_for(value)}", err=True)
        return value

    rate = "Inferences in a time, one after the other: 200/s, or 150% of the dense model. Another way to write --latency."
    options = [
        click.option("--latency", metavar="TIME", callback=check, help="Latency limit (median): 15ms, or 50% of the dense model."),
        click.option("--throughput", metavar="RATE", callback=check_throughput, help=rate),
        click.option("--memory", metavar="BYTES", callback=check, help="Limit on peak memory: 20MB, or 60%."),
        click.option("--energy", metavar="ENERGY", callback=check, help="Limit on the energy of one inference: 40mJ, or 50%."),
        click.option("--size", metavar="BYTES", callback=check, help="Limit on the size of the exported file: 1MB, or 50%."),
        click.option("--macs", metavar="COUNT", callback=check, help="Limit on multiply-accumulates: 40M, or 50%."),
        click.option("--parameters", metavar="COUNT", callback=check, help="Limit on parameters: 300k, or 50%."),
        click.option(
            "--max-drop", type=click.FloatRange(min=0), metavar="POINTS", help="Largest allowed loss of the metric, in its own units."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function
