"""Training through ``torch.compile``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.task import Task
from edgeprune.tuning import finetune
from edgeprune.tuning.rehearse import first_batch, rehearse


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))


def task(**settings: object) -> Task:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(24, 1, 8, 8, generator=generator), torch.arange(24) % 10
    data = [(images[at : at + 8], labels[at : at + 8]) for at in (0, 8, 16)]
    return Task(network(), (images[:1],), train=data, validation=data, epochs=2, ema=0.9, mixed_precision=False, device="cpu", **settings)  # type: ignore[arg-type]


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_ends_as_the_other_does_and_each_continues_the_other(tmp_path: Path) -> None:
    plain, compiled, continued = network(), network(), network()
    usual = finetune(plain, task(), teacher=network(), checkpoint=tmp_path / "plain")
    found = finetune(compiled, task(compile=True), teacher=network(), checkpoint=tmp_path / "compiled")
    assert [entry["loss"] for entry in found.history[1:]] == pytest.approx([entry["loss"] for entry in usual.history[1:]], rel=1e-4)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for one, other in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert finetune(continued, task(), teacher=network(), checkpoint=tmp_path / "compiled").steps == 6, "all is done"
    torch.testing.assert_close(continued.state_dict(), compiled.state_dict())


@pytest.mark.soak  # loads torch's compiler
def test_without_a_compiler_it_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    asked = task(compile=True)
    for trains in (lambda: finetune(network(), asked), lambda: rehearse(asked, first_batch(asked))):
        with pytest.raises(InputError, match="needs a C"):
            trains()


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(InputError, match="in 2 processes"):
        finetune(network(), replace(task(compile=True), device="cpu:2"))
    with pytest.raises(InputError, match="distil_features"):
        finetune(network(), task(compile=True, distil_features=["0"]), teacher=network())
