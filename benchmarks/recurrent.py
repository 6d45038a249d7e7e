"""Recurrent layers kept whole against the same layers written out step by step: size, operators, and time in one session.

Exports a keyword network of one layer for each kind and number of steps, with ``nn.LSTM`` (``GRU``, ``RNN``), and with the layer's cell in
a Python loop, which the converter writes out.  Times are measured in turns, one thread, in this process; ``--steps 25,49,100``.  Prints a
table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeprune.export import export
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.interpreter import invoke, open_tflite

INPUTS, HIDDEN, CLASSES = 40, 64, 10
KINDS = {"LSTM": (nn.LSTM, nn.LSTMCell), "GRU": (nn.GRU, nn.GRUCell), "RNN": (nn.RNN, nn.RNNCell)}


class Whole(nn.Module):
    """The layer over the whole sequence."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.head = KINDS[kind][0](INPUTS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layer(x)[0][:, -1])
        return y


class Unrolled(nn.Module):
    """The layer's cell, step by step."""

    def __init__(self, whole: Whole, kind: str) -> None:
        super().__init__()
        self.cell, self.head = KINDS[kind][1](INPUTS, HIDDEN), whole.head
        self.cell.load_state_dict({name.removesuffix("_l0"): value for name, value in whole.layer.state_dict().items()})
        self.states = 2 if kind == "LSTM" else 1

    def forward(self, x: Tensor) -> Tensor:
        state = [torch.zeros(1, HIDDEN)] * self.states
        for step in x.unbind(1):
            found = self.cell(step, tuple(state) if self.states == 2 else state[0])
            state = list(found) if self.states == 2 else [found]
        y: Tensor = self.head(state[0])
        return y


def written(model: nn.Module, steps: int, name: str) -> bytes:
    """The model's file in a format."""
    samples = [(torch.randn(1, steps, INPUTS),) for _ in range(8)]
    with tempfile.TemporaryDirectory() as folder:
        return Path(export(model.eval(), samples[0], [name], folder, calibration=samples)[name]).read_bytes()


def ratio(one: bytes, other: bytes, steps: int, rounds: int) -> tuple[float, float]:
    """Median milliseconds of ``one``, and its time over that of ``other``, measured in turns."""
    x = torch.randn(1, steps, INPUTS)
    times: tuple[list[float], list[float]] = ([], [])
    interpreters = [open_tflite(content) for content in (one, other)]
    for number in range(rounds + 2):
        for place in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            invoke(interpreters[place], [x])
            if number > 1:
                times[place].append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times[0]), statistics.median(a / b for a, b in zip(*times, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default="25,49,100")
    parser.add_argument("--kinds", default="LSTM,GRU,RNN")
    parser.add_argument("--formats", default="tflite,tflite-int8")
    parser.add_argument("--rounds", type=int, default=51)
    given = parser.parse_args()
    print("| layer | steps | format | bytes | unrolled | operators | unrolled | ms | time to unrolled |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in given.kinds.split(","):
        for steps in map(int, given.steps.split(",")):
            torch.manual_seed(0)
            whole = Whole(kind)
            for name in given.formats.split(","):
                one, other = written(whole, steps, name), written(Unrolled(whole, kind), steps, name)
                counts = [sum(1 for _ in flatbuffer.operators(flatbuffer.read(content))) for content in (one, other)]
                ms, found = ratio(one, other, steps, given.rounds)
                sizes = f"{len(one):,} | {len(other):,} | {counts[0]} | {counts[1]}"
                print(f"| {kind} | {steps} | {name} | {sizes} | {ms:.3f} | {found:.2f} |", flush=True)


if __name__ == "__main__":
    main()
