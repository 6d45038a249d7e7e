"""What a model file holds, found from its content before any device is used: suffixes can be wrong."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Final

from edgeprune.engines import ENGINE_OF_SUFFIX, ENGINES, EXECUTORCH, NATIVE, ONNX, TFLITE, TORCHSCRIPT, Engine, engine_of
from edgeprune.errors import InputError

_HEAD = 512
_MOST_PICKLE = 1 << 20
_RECOGNISED: Final = (TFLITE, NATIVE, TORCHSCRIPT, EXECUTORCH)
"""Engines all of whose files begin with a mark of their own."""
_TEXT: Final = (b"<!doctype html", b"<html", b"<?xml", b"{", b"version https://git-lfs")


def require_content(path: Path, engine: str) -> None:
    """Raise :class:`InputError`, naming what the file holds and the remedy, when it is plainly nothing that ``engine`` runs.

    It is not loaded, and nothing in it is unpickled.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f"model {path} cannot be read: {error.strerror}", remedy="Allow this user to read it.") from error
    found = _held(path, head)
    wanted = ENGINES.get(engine)
    if found is None and engine in _RECOGNISED:
        found = "something else"
    if wanted is None or found in (wanted.holds, None):
        return
    raise InputError(f"{path.name} holds {found}, and {wanted.holds} is needed", remedy=_remedy(found, wanted))


def _remedy(found: str, wanted: Engine) -> str:
    if "git-lfs" in found or "text" in found or "page" in found:
        return "Download the model itself: this file only stands in its place."
    other = next((name for name in ENGINE_OF_SUFFIX.values() if ENGINES[name].holds == found), None)
    if other is not None:
        return f"Give it the suffix of its kind (--engine {other}), or give the right file."
    if "weights" in found or "state_dict" in found or "checkpoint" in found:
        return f"Build the model, load the weights into it (model.load_state_dict), and export that. {wanted.obtained}"
    return wanted.obtained


def _held(path: Path, head: bytes) -> str | None:
    """What the file is, in words; None where that is not known."""
    if not head:
        return "nothing (it is empty)"
    if head[4:8] == b"TFL3":
        return ENGINES[TFLITE].holds
    if head[4:6] == b"ET" and head[6:8].isdigit():
        return ENGINES[EXECUTORCH].holds
    if head.startswith(b"PK"):
        return _archive(path)
    if head[:1] == b"\x80" and head[1] in range(2, 6):
        return _pickle(path.read_bytes()[:_MOST_PICKLE], "a pickle")
    if head.startswith(b"\x89HDF"):
        return "a Keras or HDF5 file"
    if len(head) > 9 and int.from_bytes(head[:8], "little") < 1 << 30 and head[8:9] == b"{":
        return "weights (safetensors)"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    text = head.lstrip().lower()
    if text.startswith(_TEXT):
        return "an HTML page" if text.startswith((b"<!doctype html", b"<html")) else "text"
    if head[:1] == b"\x08" and engine_of(path.name) == ONNX:
        return None
    if _looks_like_onnx(head):
        return ENGINES[ONNX].holds
    return "text" if head.isascii() and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head) else None


def _looks_like_onnx(head: bytes) -> bool:
    """A protocol buffer whose first fields are the version of its layout and the name of what made it."""
    return head[:1] == b"\x08" and 0 < head[1] < 32 and head[2:3] == b"\x12" and head[4 : 4 + head[3]].isascii()


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            ends = {name.partition("/")[2] or name for name in names}
            if "constants.pkl" in ends or any(name.startswith("code/") for name in ends):
                return ENGINES[TORCHSCRIPT].holds
            if "data.pkl" in ends:
                place = next(name for name in names if name.endswith("data.pkl"))
                return _pickle(archive.read(place)[:_MOST_PICKLE], "a saved object (torch.save)")
            if any(name.startswith("models/") for name in ends) or "serialized_exported_program.json" in names:
                return "an exported program (.pt2)"
            if any(name.endswith("saved_model.pb") for name in names) or any(
                name.endswith(("model.json", "config.json")) for name in names
            ):
                return "a Keras or TensorFlow archive"
            return "a zip archive that is not a model"
    except (zipfile.BadZipFile, OSError, KeyError):
        return "a damaged zip archive"


_STATE: Final = ("_rebuild_tensor", "_rebuild_parameter")
_KEYS: Final = {"state_dict", "model_state_dict", "optimizer", "optimizer_state_dict", "epoch", "model", "ema", "net", "weights"}


def _pickle(content: bytes, otherwise: str) -> str:
    """What a pickle makes, by its instructions: they are read, never run."""
    classes: list[str] = []
    texts: set[str] = set()
    recent: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name == "GLOBAL":
                classes.append(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                classes.append(".".join(recent[-2:]))
            elif isinstance(argument, str):
                recent.append(argument)
                texts.add(argument)
    except ValueError:
        pass  # cut off, or not a pickle: what was seen counts
    own = [
        name
        for name in classes
        if not name.startswith(("collections.", "torch._utils.", "torch.storage", "torch.Size", "_codecs", "numpy"))
    ]
    modules = [name for name in own if not (name.startswith("torch.") and name.endswith(("Storage", "device", "dtype")))]
    tensors = any(mark in name for mark in _STATE for name in classes)
    if modules:
        return f"a pickled model of the class {modules[0]}"
    if tensors and _KEYS & texts:
        return f"a checkpoint (a dict with {', '.join(sorted(_KEYS & texts)[:3])})"
    return "a state_dict (weights without their model)" if tensors else otherwise
