"""Run by itself, in a process of its own: loads a TFLite file with TFLite Micro's interpreter and says what of the arena it used.

``python arena_child.py FILE UPPER_BYTES INPUTS``: one JSON object on stdout; TFLite Micro's own words on stderr.
It imports nothing of edgeprune.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any


def _started(runtime: Any, content: bytes, arena_bytes: int, inputs: int) -> Any:
    """An interpreter that has run once, on zeros."""
    import numpy as np

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)
    for index in range(inputs):
        details = interpreter.get_input_details(index)
        interpreter.set_input(np.zeros(details["shape"], details["dtype"]), index)
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


def main() -> None:
    """Answer for the file of the first argument."""
    path, upper, inputs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    from tflite_micro import __version__, runtime

    with open(path, "rb") as stream:
        content = stream.read()
    words = _allocations(_started(runtime, content, upper, inputs))

    def works(size: int) -> bool:
        try:
            _started(runtime, content, size, inputs)
        except RuntimeError:
            return False
        return True

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what does not fit is said in many words
    used = int(words.partition("allocation total ")[2].split()[0])
    print(json.dumps({"version": __version__, "allocations": words, "least_bytes": _least(works, used, upper)}))


if __name__ == "__main__":
    main()
