"""TFLite files that were cut off or changed: one message, whoever reads them."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from edgeprune.errors import EdgepruneError, ExportError, InputError
from edgeprune.export import read_metadata
from edgeprune.export.sizes import sizes
from edgeprune.export.sparse.check import sparse_check
from edgeprune.micro import macs_of, read_graph
from edgeprune.testing.models import dense_tflite
from edgeprune.tflite.versions import check_runtime, minimum_runtime

READERS: dict[str, Callable] = {
    "micro": lambda path: macs_of(read_graph(path.read_bytes(), path.name)),
    "sparse": sparse_check,
    "metadata": read_metadata,
    "sizes": sizes,
    "runtime": minimum_runtime,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_file_that_is_cut_off_is_said_to_be_damaged(dense_model, tmp_path, reader):
    path = tmp_path / "cut.tflite"
    content = dense_model.read_bytes()
    path.write_bytes(content[:64])
    with pytest.raises((ExportError, InputError), match="damaged"):
        reader(path)


def test_a_damaged_file_is_not_sent_to_a_device(dense_model):
    content = dense_model.read_bytes()
    with pytest.raises(InputError, match=r"cut\.tflite is damaged"):
        check_runtime(content[:64], "cut.tflite", "tflite-runtime", "2.14.0")


def test_whatever_byte_is_changed_nothing_but_an_error_of_ours_is_raised(tmp_path):
    path, chance = tmp_path / "changed.tflite", random.Random(0)
    content = dense_tflite(np.ones((2, 4)))
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(chance.choice([1, 4, 30])):
            changed[chance.randrange(8, len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        for read in READERS.values():
            try:
                read(path)
            except EdgepruneError:
                continue


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_a_missing_file(tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    path = tmp_path / f"model{suffix}"
    path.write_bytes(bytes(range(256)))
    for read in (read_metadata, sizes):
        with pytest.raises(ExportError, match="cannot be read"):
            read(path)
