"""Converted files by content: the same exported program is converted once per machine."""

from __future__ import annotations

import hashlib
import itertools
import os
from importlib.metadata import version
from pathlib import Path

import platformdirs
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from edgeprune.engines import FORMATS, TFLITE
from edgeprune.files import write_atomically

LIMIT_BYTES = 2_000_000_000
REVISION = "3"
"""Raise it when what the worker does to a program changes."""
_DIGEST = hashlib.sha256().digest_size  # before every kept file


def program_key(program: ExportedProgram) -> str:
    """SHA-256 over the graph, the signature, every state tensor and the versions of torch and litert-torch.

    The bytes of a saved ``.pt2`` would not do: they hold stack traces.
    """
    digest = hashlib.sha256(f"{REVISION} {torch.__version__} {version('litert-torch')}".encode())
    for name, module in program.graph_module.named_modules():
        if isinstance(module, GraphModule):
            digest.update(f"{name} {module.graph}".encode())
    for spec in program.graph_signature.input_specs:
        digest.update(f"{spec.kind} {spec.arg} {spec.target}".encode())
    digest.update(f"{program.call_spec.in_spec} {program.call_spec.out_spec}".encode())
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        digest.update(f"{value.shape} {value.dtype}".encode() if isinstance(value, Tensor) else b"-")
    for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
        digest.update(f"{name} {type(tensor)}".encode())
        if isinstance(tensor, Tensor):
            digest.update(f"{tensor.shape} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_SUFFIX = FORMATS[TFLITE].suffix


def _folder() -> Path:
    return Path(platformdirs.user_cache_dir("edgeprune"), "export")


def read(key: str) -> bytes | None:
    """The file kept under ``key``, or None."""
    path = _folder() / f"{key}{_SUFFIX}"
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    digest, content = content[:_DIGEST], content[_DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None  # damaged ones are made again


def write(key: str, content: bytes) -> None:
    """Keep ``content`` under ``key`` and drop the files unused for longest beyond 2 GB.  A cache that cannot be written is not an error."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{key}{_SUFFIX}", hashlib.sha256(content).digest() + content)
        kept = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob(f"*{_SUFFIX}")), reverse=True)
        for (_, _, path), total in zip(kept, itertools.accumulate(size for _, size, _ in kept), strict=True):
            if total > LIMIT_BYTES and path.stem != key:
                path.unlink(missing_ok=True)
    except OSError:
        return
