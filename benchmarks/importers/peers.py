"""What other converters make of a file: run by a Python that has them, and nothing of this project."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PEERS = ("onnx2torch", "onnx2pytorch")


def peer(package: str, path: str, shapes: dict[str, list[int]], constants: dict[str, Any], python: str) -> str:
    """What ``package`` makes of a file, run by ``python``: "yes", or what is missing."""
    command = [python, __file__, package, path, json.dumps(shapes), json.dumps(constants)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return "took over 300 s"
    if done.returncode not in (0, -6, -11):
        raise RuntimeError(f"{package} cannot be tried on {path}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "crashed"


def _peer(package: str, path: str, shapes: dict[str, list[int]], constants: dict[str, Any]) -> str:
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    feed: dict[str, Any] = {}
    values = []
    for one in session.get_inputs():
        sizes = shapes.get(one.name) or [size if isinstance(size, int) else 1 for size in one.shape]
        whole = "int" in one.type
        kind = np.int64 if "64" in one.type else np.int32
        value = generator.integers(0, 2, sizes).astype(kind) if whole else generator.standard_normal(sizes)
        if one.name in constants:
            value = np.asarray(constants[one.name], kind if whole else np.float32)
        feed[one.name] = np.asarray(value, None if whole else np.float32)
        values.append(torch.from_numpy(np.array(feed[one.name])))
    wanted = session.run(None, feed)
    try:
        if package == "onnx2torch":
            from onnx2torch import convert

            model = convert(path).eval()
        else:
            from onnx2pytorch import ConvertModel

            model = ConvertModel(onnx.load(path)).eval()
    except Exception as error:
        return f"does not convert ({type(error).__name__})"
    try:
        with torch.no_grad():
            got = model(*values)
    except Exception as error:
        return f"does not run ({type(error).__name__})"
    got = list(got) if isinstance(got, (tuple, list)) else [got]
    far = max(float(np.abs(one.numpy() - other).max() / max(np.abs(other).max(), 1e-6)) for one, other in zip(got, wanted, strict=False))
    if not far <= 1e-4:
        return f"differs by {far:.0e}"
    try:
        torch.export.export(model, tuple(values))
    except Exception:
        return "agrees, torch.export refuses it"
    return "yes"


if __name__ == "__main__":
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(_peer(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])))
