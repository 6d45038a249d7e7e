"""The size of a TFLite file's constants, read by the layout of its schema (tensorflow/lite/schema/schema.fbs, version 3)."""

from __future__ import annotations

import struct
from typing import Optional

_BUFFERS = 4  # Model: version, operator_codes, subgraphs, description, buffers
_DATA, _SIZE = 0, 2  # Buffer: data, offset, size


def _field(data: bytes, table: int, index: int) -> int:
    """Where a field of a table is, 0 when it is left out (flatbuffers' "internals": vtables)."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0]
    return table + offset if offset else 0


def _follow(data: bytes, place: int) -> int:
    return place + int(struct.unpack_from("<I", data, place)[0])


def constant_bytes(data: bytes) -> Optional[int]:
    """Bytes of all buffers of a TFLite model; None when the file is not laid out as one."""
    if data[4:8] != b"TFL3":
        return None
    try:
        buffers = _field(data, _follow(data, 0), _BUFFERS)
        if not buffers:
            return 0
        vector, total = _follow(data, buffers), 0
        for index in range(struct.unpack_from("<I", data, vector)[0]):
            table = _follow(data, vector + 4 + 4 * index)
            content, size = _field(data, table, _DATA), _field(data, table, _SIZE)
            total += struct.unpack_from("<I", data, _follow(data, content))[0] if content else 0
            total += struct.unpack_from("<Q", data, size)[0] if size else 0
        return total
    except struct.error:
        return None
