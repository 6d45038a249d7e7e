"""Data sets in the files that their authors distribute: read as they are, and the same as the packed ones."""

from __future__ import annotations

import gzip
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from edgeprune.errors import RecipeError
from edgeprune.recipes import run_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a recipe's module by name, with an empty data folder."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    yield lambda name: __import__(name)
    for path in RECIPES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_cifar_as_torchvision_leaves_it_is_what_the_packed_files_hold(module, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 1000, 3, 32, 32)).astype(np.uint8)
    labels = random.integers(0, 10, (6, 1000))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        content = {"data": pixels[number].reshape(1000, 3072), "labels": labels[number].tolist(), "filenames": ["x.png"]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    original = module("_cifar10").images([0, 5])
    (tmp_path / "cifar10").mkdir()
    for number in range(6):
        rows = pixels[number].transpose(0, 2, 3, 1).reshape(1000, 1024, 3)
        Image.fromarray(rows).save(tmp_path / f"cifar10/batch_{number}.png", compress_level=1)
    (tmp_path / "cifar10/labels.json").write_text(json.dumps({"labels": labels.reshape(-1).tolist()}))
    packed = module("_cifar10").images([0, 5])
    assert all(torch.equal(one, other) for one, other in zip(original, packed, strict=True))
    assert original[1].tolist() == [*labels[0], *labels[5]]


def test_cifar_that_is_cut_short_or_missing_is_named(module, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with pytest.raises(RecipeError, match=r"data_batch_1 does not exist") as caught:
        module("_cifar10").images([0])
    assert "https://" not in caught.value.message
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}))
    with pytest.raises(RecipeError, match=r"data_batch_1 is not a file of CIFAR-10"):
        module("_cifar10").images([0])


def test_a_pickle_that_is_more_than_arrays_is_refused(module, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(RecipeError, match=r"it wants (os|posix)\.system, which is no array"):
        module("_cifar10").images([0])
    assert not (tmp_path / "owned").exists()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "gz"])
@pytest.mark.parametrize("place", ["MNIST/raw", "mnist/MNIST/raw", "mnist"])
def test_mnist_as_torchvision_leaves_it(module, tmp_path: Path, place: str, packed: bool) -> None:
    digits = np.random.default_rng(0).integers(0, 256, (9000, 28, 28)).astype(np.uint8)
    labels = np.arange(9000) % 10
    raw = tmp_path / place
    raw.mkdir(parents=True)
    for part, chosen in (("train", slice(0, 6000)), ("t10k", slice(6000, 9000))):
        for kind, array in (("images-idx3", digits[chosen]), ("labels-idx1", labels[chosen])):
            path = raw / f"{part}-{kind}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array), 1))
            else:
                path.write_bytes(idx(array))
    images, numbers = module("_mnist").digits(range(1, 3)).tensors
    assert numbers.tolist() == labels[3000:].tolist()
    assert torch.equal((images[:, 0] * 255).round().byte(), torch.from_numpy(digits[3000:]))


def test_a_file_of_digits_that_is_cut_off_is_named(module, tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/train-images-idx3-ubyte").write_bytes(idx(np.zeros((4, 28, 28)))[:-1])
    with pytest.raises(RecipeError, match=r"train-images-idx3-ubyte is not an IDX file of bytes, or is cut off"):
        module("_mnist").digits(range(1))


def test_spoken_commands_are_read_from_folders_of_words(module, tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    time = np.arange(16000) / 16000
    for word, hertz in (("yes", 500), ("no", 1000), ("bed", 2000), ("cat", 2000), ("_background_noise_", 50)):
        (folder / word).mkdir(parents=True)
        for number in range(4):
            sound = (9000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)
            wavfile.write(folder / word / f"abc_nohash_{number}.wav", 16000, sound)
    (folder / "validation_list.txt").write_text("yes/abc_nohash_1.wav\nno/abc_nohash_1.wav\n")
    (folder / "testing_list.txt").write_text("yes/abc_nohash_2.wav\nbed/abc_nohash_0.wav\n")
    vit = module("speech_commands_vit")
    yes, no, unknown = (vit.LABELS.index(word) for word in ("yes", "no", "unknown"))
    inputs, labels = vit.clips((1, 2))
    assert sorted(labels.tolist()) == sorted([yes, yes, no, unknown])
    tone = vit.spectrogram(0.27466 * np.sin(2 * np.pi * 500 * np.arange(8000) / 8000))
    assert np.abs(inputs[labels == yes][0, 0].numpy()[:, 3:-3] - tone[:, 3:-3]).mean() < 0.2
    assert inputs[labels == yes][0, 0].argmax(0)[10] == tone.argmax(0)[10]
    assert sorted(vit.clips((0,))[1].tolist()).count(no) == 3


def test_requests_are_read_from_a_clone(module, tmp_path: Path) -> None:
    snips = module("snips")
    for intent in snips.LABELS:
        folder = tmp_path / snips.ORIGINAL / intent
        folder.mkdir(parents=True)
        for name in (f"train_{intent}_full", f"validate_{intent}"):
            (folder / f"{name}.json").write_text(json.dumps({intent: [{"data": [{"text": f"{intent} please"}]}]}))
    texts, classes = snips.requests("train")
    assert texts[2] == ["getweather", "please"]
    assert classes.tolist() == list(range(7))


def test_spoken_digits_are_read_from_a_clone(module, tmp_path: Path) -> None:
    folder = tmp_path / "free-spoken-digit-dataset/recordings"
    folder.mkdir(parents=True)
    for number in (0, 7):
        wavfile.write(folder / f"3_anyone_{number}.wav", 8000, np.zeros(2000, np.int16))
    assert module("fsdd").recordings(held_out=True)[1].tolist() == [3]


def test_streams_are_read_from_a_clone_with_their_marks(module, tmp_path: Path) -> None:
    nab = module("nab")
    (tmp_path / "NAB/data/realKnownCause").mkdir(parents=True)
    (tmp_path / "NAB/labels").mkdir()
    lines = [f"2013-12-02 21:{minute:02}:00,{minute / 2}" for minute in range(0, 60, 5)]
    (tmp_path / f"NAB/data/realKnownCause/{nab.STREAM}.csv").write_text("\n".join(["timestamp,value", *lines]))
    spans = {f"realKnownCause/{nab.STREAM}.csv": [["2013-12-02 21:10:00.000000", "2013-12-02 21:20:00.000000"]]}
    (tmp_path / "NAB/labels/combined_windows.json").write_text(json.dumps(spans))
    values, marked = nab.stream()
    assert values.tolist() == [minute / 2 for minute in range(0, 60, 5)]
    assert marked.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_sounds_are_read_from_what_esc_50_unpacks_to(module, tmp_path: Path) -> None:
    folder = tmp_path / "ESC-50-master"
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    rows = [("1-a.wav", 1, "crying_baby", True), ("5-b.wav", 5, "dog", True), ("5-c.wav", 5, "cat", False)]
    text = "".join(f"{name},{fold},0,{category},{chosen},1,A\n" for name, fold, category, chosen in rows)
    (folder / "meta/esc50.csv").write_text("filename,fold,target,category,esc10,src_file,take\n" + text)
    for name, *_ in rows[:2]:
        wavfile.write(folder / "audio" / name, 16000, np.zeros(16000 * 5, np.int16))
    esc10 = module("esc10")
    inputs, labels = esc10.clips(held_out=True)
    assert (tuple(inputs.shape), labels.tolist()) == ((1, 1, 32, 245), [esc10.LABELS.index("dog")])
    assert esc10.clips(held_out=False)[1].tolist() == [esc10.LABELS.index("crying baby")]


def test_nuclei_are_read_from_their_pictures_and_masks(module, tmp_path: Path) -> None:
    for number in range(10):
        for kind, count in (("images", 1), ("masks", 2)):
            folder = tmp_path / f"stage1_train/{number:02}/{kind}"
            folder.mkdir(parents=True)
            for at in range(count):
                pixels = np.zeros((200, 180, 4 if kind == "images" else 1), np.uint8)
                pixels[20 + at, 10] = 255
                Image.fromarray(pixels.squeeze()).save(folder / f"{at}.png")
    nuclei = module("_nuclei")
    assert [len(nuclei.pictures(part)) for part in (0, 1, 2)] == [7, 1, 2]
    picture, mask = nuclei.pictures(1)[0]
    assert picture.shape == (3, 160, 160)
    assert mask.nonzero().tolist() == [[0, 0], [1, 0]]
    assert picture[:, 0, 0].tolist() == [3.0] * 3


@pytest.mark.parametrize(
    ("name", "fetched"),
    [
        ("cifar10_resnet20", "github.com/akamaster"),
        ("mnist_lightning", "torchvision.datasets.MNIST"),
        ("speech_commands_vit", "speech_commands_v0.02.tar.gz"),
        ("fsdd", "free-spoken-digit-dataset"),
        ("snips", "nlu-benchmark"),
        ("banking77", "PolyAI-LDN"),
        ("ecg", "physionet.org"),
        ("har", "stationary, walking and running"),
        ("esc10", "ESC-50"),
        ("nab", "github.com/numenta/NAB"),
        ("nuclei", "BBBC038"),
        ("pneumonia", "pneumoniamnist.npz"),
        ("speech_commands_gru", "speech_commands_v0.02.tar.gz"),
    ],
)
def test_without_data_one_sentence_says_what_to_fetch(module, name: str, fetched: str, tmp_path: Path, monkeypatch) -> None:
    for needed in {"mnist_lightning": ["pytorch_lightning"], "banking77": ["transformers"]}.get(name, []):
        pytest.importorskip(needed)
    monkeypatch.delenv("EDGEPRUNE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copied = tmp_path / "some/where/copied"
    copied.mkdir(parents=True)
    for path in RECIPES.glob("*.py"):
        (copied / path.name).write_text(path.read_text())
    monkeypatch.syspath_prepend(str(copied))
    with pytest.raises(RecipeError, match="EDGEPRUNE_DATA is not set, where ") as caught:
        run_recipe(copied / f"{name}.py", "task")
    assert fetched in caught.value.remedy
    assert caught.value.remedy.startswith("Set EDGEPRUNE_DATA to a folder")
    assert caught.value.remedy.count(". ") == 0
