"""The exported files of a run, and how programs load them in Python, C++, Kotlin and C."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgeprune.engines import engine_of
from edgeprune.runs.summary import InputSummary, RunSummary

_LANGUAGES = {"py": "Python", "cpp": "C++", "kt": "Kotlin on Android", "c": "C"}
_NUMPY = {"float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"}


@dataclass(frozen=True)
class Snippet:
    """A piece of a program; ``title``: its language and what it loads."""

    title: str
    code: str


def files(run: RunSummary) -> dict[str, Any] | None:
    """The table of the exported files, and the snippets that load them; None for a run that kept no hashes of its files."""
    if not run.artifacts:
        return None
    body = [[one.file, name, f"{one.bytes:,}", one.sha256[:16]] for name, one in run.artifacts.items()]
    found = [snippet for one in run.artifacts.values() for snippet in _snippets(one.file, one.file, run)]
    found += _snippets("model.safetensors", "the pruned model for more training", run)
    return {"body": body, "snippets": found}


def _snippets(file: str, what: str, run: RunSummary) -> Iterator[Snippet]:
    """Those of the engine that runs the file, or of its suffix where none does: ``pages/snippets/ENGINE.LANGUAGE.txt``."""
    folder = resources.files("edgeprune.report") / "pages" / "snippets"
    for suffix, language in _LANGUAGES.items():
        template = folder / f"{engine_of(file) or file.rpartition('.')[2]}.{suffix}.txt"
        if template.is_file():
            yield Snippet(f"{language}, {what}", _filled(template.read_text(encoding="utf-8"), file, run))


def _filled(code: str, file: str, run: RunSummary) -> str:
    inputs = run.inputs or [InputSummary([1], "float32")]
    first = inputs[0]
    arrays = ", ".join(f"np.zeros({tuple(one.shape)}, {_quoted(one.dtype)})" for one in inputs)
    tensors = ", ".join(f"torch.zeros({tuple(one.shape)}, dtype=torch.{one.dtype})" for one in inputs)
    sizes = {"shape": ", ".join(map(str, first.shape)), "count": str(_count(first.shape)), "bytes": str(_count(first.shape) * 4)}
    for name, text in {"file": file, "arrays": arrays, "tensors": tensors, **sizes}.items():
        code = code.replace(f"@{name}@", text)
    return code.strip()


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _quoted(dtype: str) -> str:
    return f'"{dtype if dtype in _NUMPY else "float32"}"'
