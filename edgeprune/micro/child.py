"""Run by itself, in a process of its own: loads a TFLite file with TFLite Micro's interpreter and runs it once.

``python child.py FILE ARENA_BYTES INPUTS.npz``: one JSON object on stdout that says what of the arena it used; with ``OUTPUTS.npz
COUNT`` behind that, so many outputs are written there instead.  TFLite Micro's own words go to stderr.  It imports nothing of edgeprune.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any


def _started(content: bytes, arena_bytes: int, inputs: list[Any]) -> Any:
    """An interpreter that has run once."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)
    for index, value in enumerate(inputs):
        interpreter.set_input(value, index)
    interpreter.invoke()
    return interpreter


def _allocations(interpreter: Any) -> str:
    """What ``print_allocations`` writes to file descriptor 2."""
    with tempfile.TemporaryFile() as words:
        kept = os.dup(2)
        os.dup2(words.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        words.seek(0)
        return words.read().decode()


def _least(works: Callable[[int], bool], used: int, upper: int) -> int:
    """The smallest arena (a multiple of 16) that the model starts and runs in: starting takes temporary room beyond what stays in use."""
    low = -(-used // 16)
    if works(16 * low):
        return 16 * low
    high = -(-upper // 16)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(16 * middle) else (middle, high)
    return 16 * high


def _arena(content: bytes, upper: int, inputs: list[Any]) -> dict[str, str | int]:
    from tflite_micro import __version__

    words = _allocations(_started(content, upper, inputs))

    def works(size: int) -> bool:
        child = os.fork()  # some kernels do not ask whether they got the memory that they write to
        if not child:
            try:
                _started(content, size, inputs)
            except RuntimeError:
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what does not fit is said in many words
    used = int(words.partition("allocation total ")[2].split()[0])
    return {"version": __version__, "allocations": words, "least_bytes": _least(works, used, upper)}


def main() -> None:
    """Answer for the file of the first argument."""
    import numpy as np

    path, upper, given, *wanted = sys.argv[1:]
    with open(path, "rb") as stream:
        content = stream.read()
    with np.load(given) as held:
        inputs = [held[f"arr_{index}"] for index in range(len(held.files))]
    if not wanted:
        print(json.dumps(_arena(content, int(upper), inputs)))
        return
    interpreter = _started(content, int(upper), inputs)
    np.savez(wanted[0], *(interpreter.get_output(index) for index in range(int(wanted[1]))))


if __name__ == "__main__":
    main()
