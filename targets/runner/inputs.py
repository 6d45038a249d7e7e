"""Input tensors: seeded ones, and arrays as text.  ``numpy`` is imported when first needed."""

from __future__ import annotations

import base64
import io
from typing import Any, Dict, List, Sequence


def seeded(specs: Sequence[Dict[str, Any]], seed: int) -> List[Any]:
    """One array for each ``{"shape": [...], "dtype": "float32"}``.

    Floats are standard normal, 8-bit integers span their range, wider integers are 0 or 1 (valid as indices).  ``RandomState`` is
    used because its streams are the same in every numpy version.
    """
    import numpy as np

    state = np.random.RandomState(seed)
    arrays = []
    for spec in specs:
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        if dtype.kind == "f":
            values = state.standard_normal(shape)
        elif dtype.kind in "iu" and dtype.itemsize == 1:
            limits = np.iinfo(dtype)
            values = state.randint(limits.min, limits.max + 1, size=shape)
        else:
            values = state.randint(0, 2, size=shape)
        arrays.append(np.asarray(values).reshape(shape).astype(dtype))
    return arrays


def encode(array: Any) -> str:
    """An array as base64 of its ``.npy`` file."""
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.asarray(array, order="C"), allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode("ascii")


def decode(text: str) -> Any:
    """The array that :func:`encode` made."""
    import numpy as np

    return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
