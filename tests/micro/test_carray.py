"""A model as a C array: it compiles, holds the file, and its header says what firmware needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import ExportError
from edgeprune.micro import measure_arena, read_graph, write_c_array

pytest.importorskip("tflite_micro")

MODELS = ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant")
"""MLPerf Tiny's reference models."""

DUMP = """\
#include <stdio.h>
#include "NAME.h"
static const int8_t ahead = 1;
int main(void) {
    const int shape[INPUT_RANK] = INPUT_SHAPE;
    if (ahead != 1 || (uintptr_t)NAME_data % 16 != 0 || sizeof(INPUT_TYPE) != 1 || shape[0] != 1) return 1;
    return fwrite(NAME_data, 1, SIZE_BYTES, stdout) == SIZE_BYTES ? 0 : 2;
}
"""
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wcast-qual", "-Wundef")


def compile_and_dump(folder: Path, name: str, compiler: list[str]) -> bytes:
    """What a program linked with the array writes of it."""
    text = DUMP.replace("NAME", name)
    for part in ("INPUT_RANK", "INPUT_SHAPE", "INPUT_TYPE"):
        text = text.replace(part, f"{name.upper()}_{part.replace('INPUT', 'INPUT_0')}")
    (folder / "dump.c").write_text(text.replace("SIZE_BYTES", f"{name.upper()}_SIZE_BYTES"))
    binary = folder / "dump"
    subprocess.run([*compiler, *STRICT, f"{name}.c", "dump.c", "-o", str(binary)], cwd=folder, check=True, capture_output=True, text=True)
    return subprocess.run([str(binary)], capture_output=True, check=True).stdout


def compiler(name: str) -> str:
    """Its path; skips without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize(
    "language", [["gcc", "-std=c11"], ["g++", "-x", "c++", "-std=c++11"], ["g++", "-x", "c++", "-std=c++20"]], ids=" ".join
)
def test_the_array_compiles_and_is_the_file(int8_file: Path, tmp_path: Path, language: list[str]) -> None:
    compiler(language[0])
    content = int8_file.read_bytes()
    paths = write_c_array(content, tmp_path, "har_net", measure_arena(content))
    assert [path.name for path in paths] == ["har_net.c", "har_net.h"]
    assert compile_and_dump(tmp_path, "har_net", language) == content


@pytest.mark.parametrize("name", MODELS)
def test_the_mlperf_tiny_models_are_unchanged_in_their_arrays(models_folder: Path, tmp_path: Path, name: str) -> None:
    compiler("gcc")
    content = (models_folder / f"{name}.tflite").read_bytes()
    arena = measure_arena(content)
    _, header = write_c_array(content, tmp_path, name, arena)
    assert compile_and_dump(tmp_path, name, ["gcc", "-std=c11"]) == content
    text = header.read_text()
    assert f"#define {name.upper()}_ARENA_BYTES {arena.needed_bytes}\n" in text
    assert sha256(content).hexdigest() in text


@pytest.mark.device  # its compiler takes 300 MB
@pytest.mark.parametrize("core", ["cortex-m33", "cortex-m4", "cortex-m7"])
def test_the_array_lies_in_flash_on_arm(int8_file: Path, tmp_path: Path, core: str) -> None:
    gcc = compiler("arm-none-eabi-gcc")
    content = int8_file.read_bytes()
    write_c_array(content, tmp_path, "model", measure_arena(content))
    subprocess.run([gcc, f"-mcpu={core}", "-mthumb", "-std=c11", *STRICT, "-c", "model.c"], cwd=tmp_path, check=True)
    listing = subprocess.run([compiler("arm-none-eabi-objdump"), "-h", "model.o"], cwd=tmp_path, check=True, capture_output=True, text=True)
    found = re.search(r"\.rodata\s+([0-9a-f]+) .* 2\*\*(\d+)\n\s+CONTENTS, ALLOC, LOAD, READONLY, DATA", listing.stdout)
    assert found is not None
    assert int(found[1], 16) == len(content)
    assert int(found[2]) == 4  # aligned to 16
    assert re.search(r"\.data\s+00000000", listing.stdout)


RESOLVER = """\
#include <cstdio>
#include "model.h"
struct Resolver { METHODS };
int main() {
    Resolver resolver;
    return model_add_operators(resolver) ? 0 : 1;
}
"""


def test_the_header_registers_every_operator_once(int8_file: Path, tmp_path: Path) -> None:
    gxx = compiler("g++")
    content = int8_file.read_bytes()
    _, header = write_c_array(content, tmp_path, "model", measure_arena(content))
    names = {operator.name for operator in read_graph(content, "net").operators}
    known = {
        "CONV_2D": "Conv2D",
        "MAX_POOL_2D": "MaxPool2D",
        "FULLY_CONNECTED": "FullyConnected",
        "RESHAPE": "Reshape",
        "TRANSPOSE": "Transpose",
    }
    methods = " ".join(f'int Add{known[name]}() {{ std::puts("{name}"); return 0; }}' for name in names)
    (tmp_path / "main.cc").write_text(RESOLVER.replace("METHODS", methods))
    subprocess.run([gxx, "-std=c++17", *STRICT, "main.cc", "-o", "main"], cwd=tmp_path, check=True)
    said = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert sorted(said) == sorted(names)
    assert f"MODEL_OPERATOR_COUNT {len(names)}\n" in header.read_text()


def test_the_headers_quantization_is_the_files(int8_file: Path, tmp_path: Path) -> None:
    content = int8_file.read_bytes()
    _, header = write_c_array(content, tmp_path, "model", measure_arena(content))
    defines = dict(re.findall(r"#define (\w+) (.+)", header.read_text()))
    graph = read_graph(content, "net")
    for side, (tensor,) in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
        scale = defines[f"MODEL_{side}_0_SCALE"].removesuffix("f")
        assert np.float32(scale) == np.float32(tensor.scales[0])
        assert int(defines[f"MODEL_{side}_0_ZERO_POINT"].strip("()")) == tensor.zero_points[0]
        assert defines[f"MODEL_{side}_0_SHAPE"] == "{" + ", ".join(map(str, tensor.shape)) + "}"
        assert int(defines[f"MODEL_{side}_0_BYTES"]) == tensor.bytes


def test_the_same_file_gives_the_same_array(int8_file: Path, tmp_path: Path) -> None:
    content = int8_file.read_bytes()
    arena = measure_arena(content)
    one, two = (write_c_array(content, tmp_path / folder, "model", arena) for folder in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.parametrize("name", ["", "7up", "my-net", "a b", "_net", "net;", "é"])
def test_a_name_that_c_does_not_take_is_refused(int8_file: Path, tmp_path: Path, name: str) -> None:
    content = int8_file.read_bytes()
    with pytest.raises(ExportError, match="is not a C identifier"):
        write_c_array(content, tmp_path, name, measure_arena(content))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["c", "h"])
def test_a_file_that_somebody_wrote_is_not_replaced(int8_file: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"main.{suffix}").write_text("int main(void) { return 0; }\n")
    content = int8_file.read_bytes()
    with pytest.raises(ExportError, match=rf"main\.{suffix} exists, and edgeprune did not make it"):
        write_c_array(content, tmp_path, "main", measure_arena(content))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["int main(void) { return 0; }\n"]
