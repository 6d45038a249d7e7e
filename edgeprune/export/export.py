"""Writing a model in several formats, each file compared with the model before it gets its name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from torch import Tensor, nn

from edgeprune.batches import Inputs
from edgeprune.errors import ExportError
from edgeprune.export import executorch, formats, onnx, parity, pt2, tflite, torchscript  # noqa: F401
from edgeprune.export.calibration import Sample
from edgeprune.export.formats import Format
from edgeprune.export.options import ExportOptions
from edgeprune.export.source import Source
from edgeprune.export.sparse import format as _sparse  # noqa: F401  (registers it)
from edgeprune.files import replacing

TIME_LIMIT_S = 900.0


def export(
    model: nn.Module,
    example_inputs: Inputs | Sequence[Tensor],
    formats: Sequence[str],
    folder: str | Path,
    name: str = "model",
    *,
    calibration: Sequence[Sample] | None = None,
    options: ExportOptions | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> dict[str, Path]:
    """Write ``model`` in each of ``formats`` as ``folder/name.<suffix>`` and return the paths by format.

    ``model``: any module, or a GraphModule of ATen operations; it is copied, put in eval mode and never changed.
    ``example_inputs``: of one inference (batch of 1): a tuple, or a dict of keyword arguments.
    Inputs and outputs keep their shapes and dtypes, except that
    TFLite holds 64-bit ones in 32 bits; the tensors of a nested output become one tuple, in order. ``calibration``: the inputs of some
    hundred inferences on real data, in the shapes of the example inputs: ``tflite-int8`` needs it. A file appears under its name only
    when it is complete and its outputs on seeded inputs matched the model's (quantized files: came near enough on the calibration).
    Raises :class:`ExportError` (unknown format, an operation the format lacks, the time limit, a calibration that does not do),
    :class:`ParityError`, :class:`CaptureError`.
    """
    return start_export(
        model, example_inputs, formats, folder, name, calibration=calibration, options=options, time_limit_s=time_limit_s
    ).result()


def start_export(
    model: nn.Module,
    example_inputs: Inputs | Sequence[Tensor],
    formats: Sequence[str],
    folder: str | Path,
    name: str = "model",
    *,
    calibration: Sequence[Sample] | None = None,
    options: ExportOptions | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> Future[dict[str, Path]]:
    """:func:`export`, returning as soon as what needs this process is done; the conversion in the worker continues behind the future.

    The model may be changed at once: the files are of its state now. What :func:`export` raises comes from the future.
    """
    future: Future[dict[str, Path]] = Future()
    try:
        wanted = _find_all(formats)
        _check_calibration(wanted, calibration)
        _check_options(wanted, options or ExportOptions())
        source = Source(model, example_inputs, time_limit_s, calibration, options)
        target = _folder(folder)
        paths = {entry.name: target / f"{name}{entry.suffix}" for entry in wanted}
        for entry in wanted:
            if not entry.external:
                _write(entry, source, paths[entry.name])
        behind = [entry for entry in wanted if entry.external]
        if behind:
            _ = source.mobile_program
    except BaseException as error:
        future.set_exception(error)
        return future

    def finish() -> None:
        try:
            for entry in behind:
                _write(entry, source, paths[entry.name])
            future.set_result(paths)
        except BaseException as error:
            future.set_exception(error)

    if behind:
        threading.Thread(target=finish, name=f"export {name}", daemon=True).start()
    else:
        future.set_result(paths)
    return future


_find_all, _known = formats.find_all, formats.known  # ``formats`` is an argument's name above


def _check_calibration(wanted: Sequence[Format], calibration: Sequence[Sample] | None) -> None:
    needing = [entry.name for entry in wanted if entry.calibrated]
    if needing and calibration is None:
        raise ExportError(
            f"{needing[0]} needs calibration, and none was given",
            remedy="Give the inputs of a few hundred inferences: calibration_of(task).",
        )


def _check_options(wanted: Sequence[Format], options: ExportOptions) -> None:
    """What would change nothing is refused: its user means something by it."""
    meant = {"channels_last": options.channels_last, "integer_io": options.integer_io, "keep_float": options.keep_float}
    for what, given in meant.items():
        if given and not any(what in entry.options for entry in wanted):
            names = [entry.name for entry in _known() if what in entry.options]
            raise ExportError(f"{what} is for {', '.join(names)}, and none of these is written", remedy="Leave it out, or add a format.")


def _folder(folder: str | Path) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"the folder {path} cannot be made: {error.strerror}", remedy="Name another folder, or allow access to that one."
        ) from error
    return path


def _write(entry: Format, source: Source, path: Path) -> None:
    """Write, compare, and only then name the file."""
    content = _content(entry, source)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
            _verify(entry, source, temporary)
    except OSError as error:
        raise ExportError(
            f"{entry.name}: {path} cannot be written: {error.strerror}", remedy="Free some space there, or name another folder."
        ) from error


def _content(entry: Format, source: Source) -> bytes:
    try:
        return entry.write(source)
    except ExportError as error:
        refused = source.refused_dtype(entry.dtypes)
        if refused is None:
            raise
        raise ExportError(
            f"{entry.name}: {refused}, a type that the format does not hold",
            remedy="Export model.float(); tflite-fp16 stores its weights as float16.",
        ) from error


def _verify(entry: Format, source: Source, path: Path) -> None:
    try:
        loaded = entry.load(path)
        produced = loaded(source.probe)
    except ExportError as error:
        raise ExportError(f"{entry.name}: {error.message}", remedy=error.remedy) from error
    except Exception as error:
        reason = str(error).strip().splitlines()
        refused = source.refused_dtype(entry.dtypes)
        why = f" ({refused}, a type that it may not know)" if refused else ""
        raise ExportError(f"{entry.name}: the exported file does not run{why}: {reason[0] if reason else type(error).__name__}") from error
    if entry.verify is not None:
        entry.verify(source, loaded)
    else:
        parity.compare(entry.name, source.expected, produced, entry.tolerance)
