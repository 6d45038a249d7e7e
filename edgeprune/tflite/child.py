"""Run by itself, in a process of its own: loads the TFLite file of the first argument and runs it once on zeros.

It imports nothing of edgeprune.
"""

import sys


def main() -> None:
    """End with an error where the file does not run."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
