"""The ``edgeprune`` command: finds the command's file, runs it, and turns what goes wrong into one clear message and an exit code.

The exit codes are those of :mod:`edgeprune.cli.exit_codes`.  With ``--json`` an error is a JSON document on stdout too.
"""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module

import click

from edgeprune import __version__
from edgeprune.cli.completion import complete
from edgeprune.cli.defaults import OFF, default_map
from edgeprune.cli.exit_codes import Exit, epilog, of_error
from edgeprune.cli.options import Settings, debug_option
from edgeprune.cli.output import print_failure, show_error
from edgeprune.cli.signals import ending_cleanly
from edgeprune.errors import EdgepruneError, RunError, close_names

# name: what it does.  The command is `command` in the file of this name (- as _) beside this one, imported when it is used.
COMMANDS = {
    "init": "Write a recipe for a model and data that you name.",
    "prune": "Prune a model to budgets that are measured on a device.",
    "report": "Write the report of a run again.",
    "frontier": "Prune to several limits and show accuracy against them.",
    "inspect": "Show which channels of a model can be pruned, and why others cannot.",
    "compare-criteria": "Show how well each criterion predicts the effect of removing channels.",
    "bench": "Measure an exported model on a device, or compare two.",
    "history": "List measured results.",
    "compare": "Compare two measured results.",
    "doctor": "Check what works on this machine and on a device.",
    "probe": "Describe a device: processor, memory, runtimes, meters.",
    "setup": "Install a runtime on a device, from this machine.",
    "teardown": "Remove everything that edgeprune put on a device.",
    "targets": "Manage names for devices.",
    "sparsify": "Make most weights zero, so that ARM devices run the model faster.",
    "export": "Write a pruned checkpoint in formats that devices run.",
    "micro": "Check a TFLite file for a microcontroller, and write it as a C array.",
    "release": "Build, sign and verify releases, and send them to devices.",
    "recipes": "List the ready recipes, show and copy them.",
    "completion": "Print what makes a shell complete edgeprune's commands.",
    "profiles": "List the known devices and show their facts.",
}


# what the machine refuses a program
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENOTDIR, errno.EISDIR)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used: help needs none of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"edgeprune.cli.{name.replace('-', '_')}").command
        _accept_debug(command)
        complete(command, name)
        return command

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            if near := close_names(args[0], COMMANDS):
                raise click.UsageError(f"{error.message} Did you mean {' or '.join(near)}?", context) from error
            raise

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _accept_debug(command: click.Command) -> None:
    """Let ``--debug`` stand after the command's name too, and after a subcommand's."""
    if not any(parameter.name == "debug" for parameter in command.params):
        debug_option(command)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _accept_debug(inner)


@click.group(cls=LazyGroup, epilog=epilog(), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgeprune")
@click.option(
    "--config",
    metavar="FILE",
    help=f"Defaults of options [default: edgeprune.toml, or [tool.edgeprune] of pyproject.toml, in this folder; {OFF}: none].",
)
@debug_option
@click.pass_context
def group(context: click.Context, config: str | None) -> None:
    """Prune a trained PyTorch model to latency, memory, energy and size budgets, measured on your own device."""
    if context.invoked_subcommand not in (None, "completion") and not context.resilient_parsing:
        command_of = partial(context.command.get_command, context) if isinstance(context.command, click.Group) else lambda name: None
        context.default_map = default_map(config, str(context.invoked_subcommand), COMMANDS, command_of)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (``sys.argv`` unless given) and return its exit code."""
    settings = Settings(json="--json" in (sys.argv[1:] if arguments is None else arguments))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        with ending_cleanly(), redirect_stdout(sys.stdout):  # put back however a command ends that prints a document alone there
            result = group.main(args=arguments, prog_name="edgeprune", standalone_mode=False, obj=settings)
    except click.exceptions.Abort as abort:
        return _ended(abort.__cause__ if isinstance(abort.__cause__, KeyboardInterrupt) else KeyboardInterrupt(), settings)
    except KeyboardInterrupt as interrupt:
        return _ended(interrupt, settings)
    except click.ClickException as error:
        error.show()
        print_failure(error, error.exit_code, settings)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return Exit.ERROR
    except Exception as error:
        return _ended(error, settings)
    return result if isinstance(result, int) else Exit.DONE


def _ended(error: BaseException, settings: Settings) -> int:
    """Say what ended a command; its exit code."""
    if isinstance(error, OSError) and error.errno in _REFUSED:
        error = RunError(
            f"{error.filename or 'a file'} cannot be used: {error.strerror}", remedy="Free some space there, or allow access to it."
        ).with_traceback(error.__traceback__)
    code = of_error(error)
    if isinstance(error, KeyboardInterrupt):
        show_error("Interrupted.", None, [str(argument) for argument in error.args] + notes(error))
    elif settings.debug:
        traceback.print_exception(error)
    elif isinstance(error, EdgepruneError):
        show_error(error.message, error.remedy, notes(error))
    else:
        show_error(f"{type(error).__name__}: {error}", "This is a fault of edgeprune; --debug shows where it happened.", notes(error))
    print_failure(error, code, settings)
    return code


def notes(error: BaseException) -> list[str]:
    """What was added to an exception on its way (``add_note``): how to resume, what was kept."""
    return list(getattr(error, "__notes__", []))
