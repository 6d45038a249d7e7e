"""What is laid down on devices works: units, scripts, the example program, the C around a model, the CI examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from release_kit import Kit, make_key

from edgeprune.cli import group
from edgeprune.devices import Target
from edgeprune.release import Bundle
from edgeprune.release.bundle.unpack import unpack
from edgeprune.release.deploy.push import PushOptions, push

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
STRICT = ["-Wall", "-Wextra", "-Werror"]


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@pytest.fixture
def unpacked(tmp_path: Path) -> tuple[Kit, Path]:
    kit = Kit(tmp_path)
    with Bundle.open(kit.bundle("1.0.0", 1)) as bundle:
        return kit, unpack(bundle, None, tmp_path / "unpacked")


def verify(folder: Path, signers: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(DEPLOY / "verify.sh"), str(folder), str(signers), *more], capture_output=True, text=True, check=False)


def test_a_release_is_verified_without_python(unpacked: tuple[Kit, Path]) -> None:
    kit, folder = unpacked
    done = verify(folder, kit.allowed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "release@example.org" in done.stdout
    assert verify(folder, kit.allowed, "2").returncode == 1
    other = make_key(kit.folder / "other")
    assert "0 of 1 signers" in verify(folder, Path(f"{other}.allowed")).stderr


@pytest.mark.parametrize("name", ["model.tflite", "manifest.json", "LICENSE", "SHA256SUMS"])
def test_without_python_too_a_changed_file_is_seen(unpacked: tuple[Kit, Path], name: str) -> None:
    kit, folder = unpacked
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert verify(folder, kit.allowed).returncode == 1


def test_without_python_too_a_file_that_nobody_signed_is_seen(unpacked: tuple[Kit, Path]) -> None:
    """Listed with the hash that it has, which is not the manifest's."""
    kit, folder = unpacked
    (folder / "labels.txt").write_text("other\n")
    lines = [line for line in (folder / "SHA256SUMS").read_text().splitlines() if "labels" not in line]
    added = subprocess.run(["sha256sum", "labels.txt"], cwd=folder, capture_output=True, text=True, check=True).stdout
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n" + added)
    assert "a file is damaged" in verify(folder, kit.allowed).stderr


def test_unpacking_replaces_an_older_release_and_nothing_else(tmp_path: Path) -> None:
    kit, folder = Kit(tmp_path), tmp_path / "app/assets/edgeprune"
    folder.parent.mkdir(parents=True)
    for version, sequence, more in (("1.0.0", 1, {"old.bin": b"old"}), ("1.1.0", 2, {})):
        with Bundle.open(kit.bundle(version, sequence, contents=more)) as bundle:
            unpack(bundle, None, folder)
            assert (folder / "model.tflite").read_bytes() == bundle.read(bundle.manifest.variants["any"].model)
        about = json.loads((folder / "release.json").read_text())
        assert (about["version"], about["model"], (folder / "old.bin").exists()) == (version, "model.tflite", bool(more))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    with Bundle.open(kit.bundle("1.0.0", 1)) as bundle, pytest.raises(Exception, match="is not part of a release"):
        unpack(bundle, None, tmp_path / "mine")
    assert (tmp_path / "mine/file").read_text() == "mine"


def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    for unit in (DEPLOY / "linux").glob("*.service"):
        shutil.copy(unit, tmp_path / unit.name.replace("@", "@gadget"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, tmp_path.glob("*.service"))], capture_output=True, text=True, check=False
    )
    told = [line for line in done.stderr.splitlines() if "edgeprune" in line and "/usr/bin/python3 is not executable" not in line]
    assert told == []
    wrong = tmp_path / "edgeprune-app@gadget.service"
    wrong.write_text(wrong.read_text().replace("Restart=on-failure", "Restart=perhaps"))
    assert "perhaps" in subprocess.run([analyze, "verify", "--man=no", str(wrong)], capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("script", ["verify.sh", "termux/run", "ci/release.sh"])
def test_the_scripts_are_what_a_shell_takes(script: str) -> None:
    assert subprocess.run(["sh", "-n", str(DEPLOY / script)], capture_output=True, check=False).returncode == 0


def test_the_service_of_termux_recovers_and_then_runs_the_program(tmp_path: Path) -> None:
    service = tmp_path / "var/service/edgeprune-gadget"
    service.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text('#!/bin/sh\necho python "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    run = ["sh", str(DEPLOY / "termux/run")]
    done = subprocess.run(run, cwd=service, env=environment, capture_output=True, text=True, check=True)
    base = f"{tmp_path}/edgeprune"
    assert done.stdout == f"python {base}/activator.pyz recover {base}\npython {base}/consumer.py {base}/gadget\n"
    (service / "conf").write_text("EDGEPRUNE_ROOT=/data/models\nEDGEPRUNE_APP='echo mine'\n")
    done = subprocess.run(run, cwd=service, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "mine /data/models/gadget\n"  # the program alone: a restart gives up no release that is on trial
    (service / "recovered").write_text("another boot\n")
    (tmp_path / "bin/python").write_text('#!/bin/sh\necho python "$@"; exit 1\n')
    done = subprocess.run(run, cwd=service, env=environment, capture_output=True, text=True, check=True)
    assert "recover /data/models\n" in done.stdout
    assert done.stdout.endswith("mine /data/models/gadget\n")  # another product's damage stops nobody


def test_the_example_program_follows_a_switch_while_it_runs(tmp_path: Path, client_home: Path) -> None:
    kit, target = Kit(tmp_path, runs=True), Target("local:", "local:")

    def bring(version: str, sequence: int) -> None:
        with Bundle.open(kit.bundle(version, sequence)) as bundle:
            push(bundle, target, PushOptions(base=str(tmp_path / "device")))

    bring("1.0.0", 1)
    inputs = np.random.default_rng(7).standard_normal((1, 16)).astype(np.float32)
    np.save(tmp_path / "input.npy", inputs)
    command = [sys.executable, str(DEPLOY / "consumer.py"), str(tmp_path / "device/gadget"), "--every", "0.01"]
    with subprocess.Popen([*command, "--input", str(tmp_path / "input.npy")], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            first = json.loads(running.stdout.readline())
            bring("1.1.0", 2)
            lines, end = [first], time.monotonic() + 60
            while lines[-1]["version"] != "1.1.0" and time.monotonic() < end:
                lines.append(json.loads(running.stdout.readline()))
        finally:
            running.terminate()
    expected = {}
    for version, seed in (("1.0.0", 1), ("1.1.0", 2)):
        weights = np.random.default_rng(seed).standard_normal((8, 16)).astype(np.float32)
        expected[version] = int((inputs @ weights.T).argmax())
    assert {(line["version"], line["class"]) for line in lines} == set(expected.items())


def test_the_example_program_stays_with_what_it_has_when_the_new_release_cannot_be_loaded(tmp_path: Path) -> None:
    kit, root = Kit(tmp_path, runs=True), tmp_path / "gadget"
    (root / "releases").mkdir(parents=True)
    with Bundle.open(kit.bundle("1.0.0", 1)) as bundle:
        unpack(bundle, None, root / "releases/1.0.0")
    shutil.copytree(root / "releases/1.0.0", root / "releases/1.1.0")
    (root / "releases/1.1.0/model.tflite").write_bytes(b"no model")
    (root / "current").symlink_to("releases/1.0.0")
    script = f"""
import os, sys
sys.path.insert(0, {str(DEPLOY)!r})
from consumer import follow
release = follow({str(root)!r}, None)
os.symlink("releases/1.1.0", {str(root / "new")!r})
os.replace({str(root / "new")!r}, {str(root / "current")!r})
print(follow({str(root)!r}, release) is release)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert "staying with 1.0.0" in done.stderr


def test_the_example_program_loads_a_mended_model_again_and_outlives_a_missing_link(tmp_path: Path) -> None:
    kit, root = Kit(tmp_path, runs=True), tmp_path / "gadget"
    (root / "releases").mkdir(parents=True)
    with Bundle.open(kit.bundle("1.0.0", 1)) as bundle:
        unpack(bundle, None, root / "releases/1.0.0")
    (root / "current").symlink_to("releases/1.0.0")
    shutil.copy(root / "releases/1.0.0/model.tflite", tmp_path / "mended")
    script = f"""
import os, sys
sys.path.insert(0, {str(DEPLOY)!r})
from consumer import follow
root = {str(root)!r}
release = follow(root, None)
print(follow(root, release) is release)
os.replace({str(tmp_path / "mended")!r}, root + "/current/model.tflite")
mended = follow(root, release)
print(mended is release, follow(root, mended) is mended)
os.unlink(root + "/current")
print(follow(root, mended) is mended)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\nFalse True\nTrue\n"


# the C around a model


@pytest.fixture
def array(tmp_path: Path, models_folder: Path) -> tuple[Path, bytes]:
    """The C array of a quantized image classifier, and its TFLite file's content."""
    from edgeprune.micro import measure_arena, write_c_array

    pytest.importorskip("tflite_micro")
    content = (models_folder / "pretrainedResnet_quant.tflite").read_bytes()
    write_c_array(content, tmp_path / "generated", "model", measure_arena(content, "resnet"))
    return tmp_path / "generated", content


def test_numbers_go_into_a_model_and_out_as_the_runtime_does_it(tmp_path: Path) -> None:
    gcc = needs("gcc")
    values = "0.0f, 0.24f, 0.26f, -0.24f, -0.26f, 1e9f, -1e9f, 63.4f, -64.3f, NAN"
    program = f"""
#include "edgeprune_io.h"
#include <math.h>
#include <stdio.h>
int main(void) {{
  const float values[] = {{{values}}};
  int8_t stored[10];
  edgeprune_quantize(values, stored, 10, 0.5f, -3);
  for (int i = 0; i < 10; ++i) printf("%d ", stored[i]);
  printf("%zu %g", edgeprune_argmax(stored, 5), (double)edgeprune_value(stored[2], 0.5f, -3));
}}
"""
    (tmp_path / "io.c").write_text(program)
    for compiler, standard in ((gcc, "c11"), (needs("g++"), "c++11")):
        language = ["-x", "c++"] if "++" in standard else []
        build = [compiler, f"-std={standard}", *STRICT, f"-I{DEPLOY}/mcu", *language, str(tmp_path / "io.c"), "-o", str(tmp_path / "io")]
        subprocess.run(build, check=True)
        told = subprocess.run([str(tmp_path / "io")], capture_output=True, text=True, check=True).stdout
        assert told == "-3 -3 -2 -3 -4 127 -128 124 -128 -128 2 0.5"


def test_the_array_on_this_machine_gives_the_class_that_the_file_gives(array: tuple[Path, bytes], tmp_path: Path) -> None:
    import ai_edge_litert
    from ai_edge_litert.interpreter import Interpreter

    generated, content = array
    library = Path(ai_edge_litert.__file__).parent / "libLiteRt.so"
    if not library.exists():
        pytest.skip("this ai-edge-litert has no C library")
    sources = [str(DEPLOY / "mcu/host.c"), str(generated / "model.c")]
    build = [needs("gcc"), "-std=c11", *STRICT, f"-I{generated}", f"-I{DEPLOY}/mcu", *sources, "-ldl", "-o", str(tmp_path / "host")]
    subprocess.run(build, check=True)
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    details, random, classes = interpreter.get_input_details()[0], np.random.default_rng(0), set()
    for _ in range(6):
        stripes = random.integers(-128, 128, (1, 1, details["shape"][2], 1))
        values = np.broadcast_to(stripes, tuple(details["shape"])).astype(np.int8)
        interpreter.set_tensor(details["index"], values)
        interpreter.invoke()
        expected = int(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).argmax())
        done = subprocess.run([str(tmp_path / "host"), str(library)], input=values.tobytes(), capture_output=True, check=True)
        assert int(done.stdout) == expected
        classes.add(expected)
    assert len(classes) > 1


def test_cmake_builds_the_array_and_a_program_with_it(array: tuple[Path, bytes], tmp_path: Path) -> None:
    cmake, (generated, content) = needs("cmake"), array
    (tmp_path / "main.c").write_text(
        '#include "edgeprune_io.h"\n#include "model.h"\n#include <stdio.h>\n'
        "int main(void) { fwrite(model_data, 1, MODEL_SIZE_BYTES, stdout); return 0; }\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.18)\nproject(firmware C)\nadd_compile_options({' '.join(STRICT)})\n"
        f"include({DEPLOY}/mcu/edgeprune_model.cmake)\nedgeprune_model(model SOURCES {generated}/model.c)\n"
        "add_executable(firmware main.c)\ntarget_link_libraries(firmware PRIVATE model)\n"
    )
    for command in (["-S", str(tmp_path), "-B", str(tmp_path / "build")], ["--build", str(tmp_path / "build")]):
        subprocess.run([cmake, *command], check=True, capture_output=True)
    assert subprocess.run([str(tmp_path / "build/firmware")], capture_output=True, check=True).stdout == content


def test_the_cross_compiler_takes_it(array: tuple[Path, bytes], tmp_path: Path) -> None:
    cross, (generated, _) = needs("arm-none-eabi-gcc"), array
    use = "int8_t use(float v) { return edgeprune_stored(v, MODEL_INPUT_0_SCALE, MODEL_INPUT_0_ZERO_POINT); }"
    (tmp_path / "use.c").write_text(f'#include "edgeprune_io.h"\n#include "model.h"\nint8_t use(float v);\n{use}\n')
    for source in (tmp_path / "use.c", generated / "model.c"):
        build = [
            cross,
            "-c",
            "-std=c11",
            *STRICT,
            "-mcpu=cortex-m4",
            "-mthumb",
            f"-I{generated}",
            f"-I{DEPLOY}/mcu",
            str(source),
            "-o",
            str(tmp_path / "out.o"),
        ]
        subprocess.run(build, check=True)


# CI


def commands_in(text: str) -> list[list[str]]:
    """Every call of edgeprune in a script or a document, as its arguments."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found = [
        re.search(r"(?:^|[\s;:&])edgeprune ((?:release|bench|prune|probe|micro|setup|targets)\b.*)", line.partition(" #")[0])
        for line in lines
        if not line.lstrip().startswith("#")
    ]
    return [shlex.split(match[1].replace("...", "")) for match in found if match]


def check_call(arguments: list[str]) -> None:
    """Every command, subcommand and option is one that there is."""
    command: click.Command = group
    context = click.Context(group)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments[0])
        assert found is not None, arguments
        command, arguments = found, arguments[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {item for item in arguments if item.startswith("--")} <= known, arguments


def test_every_call_in_the_examples_is_one_that_there_is() -> None:
    texts = {path: path.read_text() for path in DEPLOY.rglob("*") if path.suffix in (".sh", ".yml", ".md", ".cmake", ".service")}
    calls = [call for text in texts.values() for call in commands_in(text)]
    assert len(calls) > 10
    for call in calls:
        check_call(call)


def test_a_call_that_there_is_not_is_seen() -> None:
    with pytest.raises(AssertionError):
        check_call(["release", "push", "x.epb", "--tagret", "pi"])
    with pytest.raises(AssertionError):
        check_call(["release", "pull"])


def test_the_workflow_is_well_formed() -> None:
    yaml = pytest.importorskip("yaml")
    text = (DEPLOY / "ci/github-release.yml").read_text()
    workflow = yaml.safe_load(text)
    job = workflow["jobs"]["release"]
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` so
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    needed = set(re.findall(r"\$\{([A-Z_]+):\?\}", (DEPLOY / "ci/release.sh").read_text()))
    script = next(step["run"] for step in job["steps"] if "release.sh" in step.get("run", ""))
    assert needed <= set(job["env"]) | set(re.findall(r"\b([A-Z_]+)=", script))
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_script_continues_with_the_bundle_that_it_signed(tmp_path: Path) -> None:
    (tmp_path / "edgeprune").write_text(
        '#!/bin/sh\necho "$@" >> calls\ncase "$1 $2" in "prune "*) mkdir -p runs/1.0.0/gadget;; "release build") touch "$9";; '
        '"release sign") touch "$7";; "release push") test -e works;; esac\n'
    )
    (tmp_path / "edgeprune").chmod(0o755)
    needed = dict.fromkeys(("RECIPE", "BOARD", "DEVICES", "LATENCY", "KEY", "ALLOWED_SIGNERS"), "x")
    environment = needed | {"VERSION": "1.0.0", "ACCURACY": "0.9", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ["sh", str(DEPLOY / "ci/release.sh")]
    assert subprocess.run(script, cwd=tmp_path, env=environment, check=False).returncode != 0  # the push fails
    first = (tmp_path / "calls").read_text()
    assert "--gate latency:x,accuracy:0.9 --output release-1.0.0.epb.unsigned" in first
    (tmp_path / "works").touch()
    (tmp_path / "calls").unlink()
    subprocess.run(script, cwd=tmp_path, env=environment, check=True)
    again = [line.split()[:2] for line in (tmp_path / "calls").read_text().splitlines()]
    assert again == [["release", "verify"], ["release", "push"], ["release", "status"]]


def test_the_script_asks_for_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", str(DEPLOY / "ci/release.sh")], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"RECIPE" in done.stderr
