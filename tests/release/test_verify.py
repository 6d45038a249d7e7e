"""``edgeprune release verify`` and ``show``, as a user meets them; and a release of a run that really was made."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from release_kit import Kit, make_key

from edgeprune.cli import main
from edgeprune.errors import ExpiredError, SignatureError
from edgeprune.release import Bundle
from edgeprune.release.bundle.file import write_bundle
from edgeprune.release.bundle.sign import sign
from edgeprune.release.bundle.signers import read_signers
from edgeprune.release.bundle.verify import verify


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def run_verify(*arguments: object) -> int:
    return main(["release", "verify", *map(str, arguments)])


def test_a_good_bundle_is_verified(kit, capsys):
    path = kit.bundle("1.0.0", 1)
    assert run_verify(path, "--allowed-signers", kit.allowed) == 0
    said = capsys.readouterr().out
    assert "gadget 1.0.0 is signed by release@example.org; every byte is as signed" in said
    assert run_verify(path, "--allowed-signers", kit.allowed, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verified"]["signers"] == ["release@example.org"]
    assert document["verified"]["keys"] == document["signatures"]
    assert document["manifest"]["version"] == "1.0.0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.replace(b"shared by all", b"shared by NIL", 1), "the content of LICENSE is not what the manifest says"),
        (lambda content: content.replace(b'"version": "1.0.0"', b'"version": "1.0.1"'), "is not a signature of this content"),
        (lambda content: content[:-4096], "is cut off"),
        (lambda content: b"PK\3\4" + content[4:], "no bundle|first member|damaged"),
        (lambda content: b"", "is cut off, or not a bundle: it has 0 bytes"),
    ],
)
def test_a_tampered_bundle_is_one_clear_message(kit, capsys, change, said):
    import re

    path = kit.bundle("1.0.0", 1)
    path.write_bytes(change(path.read_bytes()))
    assert run_verify(path, "--allowed-signers", kit.allowed, "--json") == 1
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {"error", "exit_code"}
    assert re.search(said, err.replace("\n", " "))
    assert str(path) in err
    assert "Traceback" not in err


def test_unsigned_unknown_and_too_few_are_refused(kit, tmp_path, capsys):
    path = kit.bundle("1.0.0", 1, signed=False)
    assert run_verify(path, "--allowed-signers", kit.allowed) == 1
    assert "is not signed" in capsys.readouterr().err
    sign(path, make_key(tmp_path / "stranger"))
    assert run_verify(path, "--allowed-signers", kit.allowed) == 1
    assert "no allowed signer has signed; not counted: unknown key SHA256:" in capsys.readouterr().err
    sign(path, kit.key)
    assert run_verify(path, "--allowed-signers", kit.allowed) == 0
    assert "a signature that is not trusted: SHA256:" in capsys.readouterr().err
    assert run_verify(path, "--allowed-signers", kit.allowed, "--threshold", "2") == 1
    assert "needs 2 allowed signers" in capsys.readouterr().err
    assert run_verify(path, "--allowed-signers", tmp_path / "none") == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_a_bundle_that_asks_for_two_signers_needs_two(kit, tmp_path):
    from dataclasses import replace

    one = kit.bundle("1.0.0", 1, signed=False)
    path, other = tmp_path / "two.epb", make_key(tmp_path / "other")
    with Bundle.open(one) as bundle:
        objects = {key: (size, lambda key=key: bundle.chunks(key)) for key, size in bundle.manifest.objects().items()}
        write_bundle(path, replace(bundle.manifest, threshold=2).to_bytes(), {}, objects)
    (tmp_path / "both").write_text(kit.allowed.read_text() + Path(f"{other}.allowed").read_text())
    sign(path, kit.key)
    with Bundle.open(path) as bundle, pytest.raises(SignatureError, match="needs 2 allowed signers"):
        verify(bundle, read_signers(tmp_path / "both"), threshold=1)  # less than it asks for is not less
    sign(path, other)
    with Bundle.open(path) as bundle:
        assert verify(bundle, read_signers(tmp_path / "both")).signers == ("other@example.org", "release@example.org")


def test_an_expired_bundle_is_refused_at_the_second(kit, capsys):
    path = kit.bundle("1.0.0", 1, expires="2026-06-01T00:00:00Z")
    end, allowed = datetime(2026, 6, 1, tzinfo=UTC), read_signers(kit.allowed)
    with Bundle.open(path) as bundle:
        verify(bundle, allowed, now=end - timedelta(seconds=1))
        for late in (timedelta(0), timedelta(days=4000)):
            with pytest.raises(ExpiredError, match="expired at 2026-06-01T00:00:00Z"):
                verify(bundle, allowed, now=end + late)
    old = kit.bundle("1.0.1", 2, expires="2026-01-02T00:00:00Z")
    assert run_verify(old, "--allowed-signers", kit.allowed) == 1
    assert "gadget 1.0.1 expired at 2026-01-02T00:00:00Z" in capsys.readouterr().err


def test_show_verifies_nothing_but_the_form_and_says_so(kit, capsys):
    path = kit.bundle("1.0.0", 1)
    path.write_bytes(path.read_bytes().replace(b"shared by all", b"shared by NIL", 1))
    assert main(["release", "show", str(path)]) == 0
    assert "signatures (not verified): SHA256:" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-512])
    assert main(["release", "show", str(path)]) == 1


RECIPE = """
import torch
from torch import nn
import edgeprune

def task():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)]
    model, data = nn.Sequential(*layers), [(torch.randn(8, 3, 8, 8), torch.arange(8) % 4)]
    more = {"labels": ["north", "east", "south", "west"], "preprocessing": {"input": "RGB", "mean": [0.5, 0.5, 0.5]}}
    return edgeprune.Task(model, (torch.zeros(1, 3, 8, 8),), train=data, validation=data, epochs=1, **more)
"""


def test_what_prune_made_is_built_signed_and_verified(kit, tmp_path, monkeypatch, capsys):
    """From a recipe to a verified release by commands alone; there is no device, so nothing is measured, and gates cannot be met."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "recipe.py").write_text(RECIPE)
    prune = ["prune", str(tmp_path / "recipe.py"), "--profile", "raspberry-pi-4", "--latency", "60%", "--no-sensitivity", "--json"]
    assert main([*prune, "--engine", "torchscript", "--format", "torchscript", "--runs", str(tmp_path / "runs")]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    bundle, build = tmp_path / "out.epb", ["release", "build", run, "--version", "0.1.0", "--output", str(tmp_path / "out.epb")]
    assert main([*build, "--gate", "latency:1s"]) == 1
    assert "has no measurement to be judged by" in capsys.readouterr().err
    assert main([*build, "--gate", "accuracy:1%", "--json"]) == 0
    variant = json.loads(capsys.readouterr().out)["manifest"]["variants"]["default"]
    assert {file["path"]: file["role"] for file in variant["files"]} == {
        "model.pt": "model",
        "labels.txt": "labels",
        "preprocessing.json": "preprocessing",
        "health/input-0.npy": "health",
        "health/output-0.npy": "health",
    }
    assert main(["release", "sign", str(bundle), "--key", str(kit.key)]) == 0
    assert run_verify(bundle, "--allowed-signers", kit.allowed) == 0
