"""``edgeprune completion``, and what shells complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_EDGEPRUNE_COMPLETE"


@click.command(short_help="Print what makes a shell complete edgeprune's commands.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> int:
    """Print the script that lets SHELL complete commands, options, targets, profiles and recipes.

    \b
    bash: echo 'eval "$(edgeprune completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(edgeprune completion zsh)"' >> ~/.zshrc
    fish: edgeprune completion fish > ~/.config/fish/completions/edgeprune.fish
    """
    made = get_completion_class(shell)
    assert made is not None, "click knows these shells"
    click.echo(made(context.find_root().command, {}, "edgeprune", VARIABLE).source())
    return 0


class Names(click.types.StringParamType):
    """A text that shells complete from names; with ``commas``, the last of several."""

    def __init__(self, names: Callable[[], Iterable[str]], commas: bool = False) -> None:
        self._names, self._commas = names, commas

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so; none where they cannot be read."""
        before, comma, last = incomplete.rpartition(",") if self._commas else ("", "", incomplete)
        try:
            found = [name for name in self._names() if name.startswith(last)]
        except Exception:  # a completion never complains
            return []
        return [CompletionItem(f"{before}{comma}{name}") for name in found]


class RecipeFile(click.types.StringParamType):
    """A text that shells complete as the path of a file."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The shell looks for files itself."""
        return [CompletionItem(incomplete, type="file")]


def _targets() -> list[str]:
    from edgeprune.devices.targets import list_groups, list_targets

    return ["local:", *(one.name for one in list_targets()), *list_groups()]


def _profiles() -> list[str]:
    from edgeprune.profile import names

    return names()


def _recipes() -> list[str]:
    from edgeprune.shipped import names

    return list(names())


def complete(command: click.Command, path: str = "") -> None:
    """Let shells complete the targets, profiles and recipes that ``command`` and its subcommands take."""
    for parameter in command.params:
        text = type(parameter.type) is click.types.StringParamType
        if not text or (isinstance(parameter, click.Option) and parameter.is_flag):
            continue
        if parameter.name in ("target", "targets", "members") or (parameter.name == "name" and path == "targets remove"):
            parameter.type = Names(_targets, commas=True)
        elif parameter.name == "profile" or (parameter.name == "name" and path.startswith("profiles")):
            parameter.type = Names(_profiles)
        elif parameter.name == "name" and path.startswith("recipes"):
            parameter.type = Names(_recipes)
        elif parameter.name == "recipe":
            parameter.type = RecipeFile()
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            complete(inner, f"{path} {name}".strip())
