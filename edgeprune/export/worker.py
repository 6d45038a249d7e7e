"""The child process that converts to TFLite: imports litert_torch once, then takes one job a line on stdin and answers one line on stdout.

A job is ``{"program": PATH.pt2, "output": PATH}``; an answer ``{"ok": true}`` or ``{"error": TEXT, "op": NAME or null}``. It ends when
stdin closes, even in the middle of a job: it never outlives its parent.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import queue
import re
import sys
import threading
import warnings
from typing import Any

# litert-torch's own refusal, an MLIR legalisation failure, and the node that torch.fx appends to what a lowering raised
_OPERATION = re.compile(r"(?:Lowering not found: |failed to legalize operation '|call_function\[target=(?:torch\.ops\.)?)([\w.:]+)")


def _read_jobs(jobs: queue.Queue[dict[str, str]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)


def _convert(job: dict[str, str]) -> None:
    import litert_torch
    import torch
    from torch.fx import GraphModule

    from edgeprune.export.passes.fold import fold_batch_norms
    from edgeprune.export.passes.recurrent import keep_recurrent_layers
    from edgeprune.export.passes.subsample import subsample_by_convolution

    program = torch.export.load(job["program"])
    module = program.module()
    assert isinstance(module, GraphModule)
    fold_batch_norms(module)
    subsample_by_convolution(module)
    keep_recurrent_layers(module)
    arguments, _ = program.example_inputs
    litert_torch.convert(module, arguments).export(job["output"])


def _teach_assertions() -> None:
    """Let the converter pass over run-time assertions on values (``one_hot`` has one): TFLite has none."""
    import torch
    from litert_torch.backend import lowerings

    for operation in (torch.ops.aten._assert_async, torch.ops.aten._assert_scalar):
        lowerings.lower(operation)(lambda context, *arguments: None)


def _teach_recurrent_layers() -> None:
    """Let the converter carry the placeholders of recurrent layers through: composites, whose own graphs are never run."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import func, stablehlo
    from litert_torch.backend import lowerings

    from edgeprune.export.passes.recurrent import PLACEHOLDER

    count = itertools.count()

    @lowerings.lower(PLACEHOLDER)  # type: ignore[untyped-decorator]
    def lower(context: Any, x: Any, states: Any, weights: Any, name: str, sequence: list[int], last: list[int]) -> list[Any]:
        inputs, graph = [x, *states, *weights], f"{name}.{next(count)}"
        results = [ir.RankedTensorType.get(shape, ir.F32Type.get()) for shape in (sequence, last)]
        with ir.InsertionPoint(context.ir_module.body):

            @func.FuncOp.from_py_func(*[value.type for value in inputs], name=graph)  # type: ignore[untyped-decorator]
            def _(*_: Any) -> list[Any]:
                zero = ir.FloatAttr.get(ir.F32Type.get(), 0.0)
                return [stablehlo.constant(ir.DenseElementsAttr.get_splat(result, zero)) for result in results]

        settings = {"name": name, "decomposition": graph, "composite_attributes": ir.DictAttr.get({}), "version": 1}
        return list(stablehlo.CompositeOp(result=results, inputs=inputs, **settings).results)


def _answer(job: dict[str, str]) -> dict[str, bool | str | None]:
    gc.disable()  # a tenth of the time would go into walking the graph's many small objects
    try:
        _convert(job)
        return {"ok": True}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        operation = _OPERATION.search(text)
        return {"error": text.split("\n\n")[0].strip()[:2000], "op": operation[1] if operation else None}
    finally:
        gc.enable()
        gc.collect()


def main() -> None:
    """Serve jobs until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    warnings.simplefilter("ignore")
    jobs: queue.Queue[dict[str, str]] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    import litert_torch  # noqa: F401
    import torch

    torch.set_num_threads(1)
    _teach_assertions()
    _teach_recurrent_layers()
    gc.collect()
    gc.freeze()
    while True:
        answers.write(json.dumps(_answer(jobs.get())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
