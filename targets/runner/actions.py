"""The parent: one request in, events and one result out."""

from __future__ import annotations

import dataclasses
import json
import os
import traceback
from typing import Any, Callable, Dict, List

from . import compare, hold, measure, probes, sustain, table, tune, watchdog
from .accelerators import CPU
from .energy import has_meter
from .engines import ENGINES
from .engines.native import BINARY_VARIABLE
from .meters import available
from .parent import Child
from .protocol import Output, RunnerError

Request = Dict[str, Any]


def _options(request: Request) -> measure.Options:
    known = {field.name for field in dataclasses.fields(measure.Options)}
    given = request.get("options", {})
    unknown = sorted(set(given) - known)
    if unknown:
        raise RunnerError("request", f"unknown options: {', '.join(unknown)}")
    return measure.Options(**given)


def probe(request: Request, emit: measure.Emit) -> Dict[str, Any]:
    """What the device is.  The runtimes of ``verify`` are really imported, each in a child, and asked for the ``accelerator``; the others
    are looked up.  ``accelerators``: list those that there are."""
    runtimes: Dict[str, Any] = {}
    for name in ENGINES.names():
        found = ENGINES.get(name)().installed()
        if name in request.get("verify", ENGINES.names()):
            runtimes[name] = _verify(name, request.get("accelerator") or CPU)
        elif found:
            runtimes[name] = {"runtime": found[0], "version": found[1]}
    more = {"accelerators": _accelerators(runtimes)} if request.get("accelerators") else {}
    return dict(probes.device(), conditions=probes.conditions(), runtimes=runtimes, meters=available(), **more)


def _verify(engine: str, accelerator: str) -> Dict[str, Any]:
    process = Child()
    try:
        return process.call("runtime", engine=engine, accelerator=accelerator)
    except RunnerError as error:
        return {"error": error.to_dict()}
    finally:
        process.close()


def _accelerators(runtimes: Dict[str, Any]) -> List[Dict[str, str]]:
    """What the usable runtimes can use, each tried in a process of its own, then devices that are there."""
    found: List[Dict[str, str]] = []
    for engine, about in runtimes.items():
        if "error" in about:
            continue
        process = Child()
        try:
            found += [dict(item, engine=engine) for item in process.call("accelerators", engine=engine)["accelerators"]]
        except RunnerError as error:
            found.append({"engine": engine, "name": "", "what": f"could not be tried: {error}"})
        finally:
            process.close()
    return found + probes.accelerators()


def bench(request: Request, emit: measure.Emit) -> Dict[str, Any]:
    """Each model by itself, one after another; one that fails has an ``error``."""
    options = _options(request)
    results = []
    prefetcher = measure.ChildPrefetcher(options, len(request["models"]))
    try:
        for model in request["models"]:
            emit("measuring", name=model["name"])
            try:
                results.append(measure.measure(model, options, emit, prefetcher))
            except RunnerError as error:
                results.append({"name": model["name"], "error": error.to_dict()})
    finally:
        prefetcher.close()
    return {"models": results}


def outputs(request: Request, emit: measure.Emit) -> Dict[str, Any]:
    """The tensors that a model makes of the given or seeded inputs."""
    loaded = measure.LoadedModel(request["model"], _options(request))
    try:
        return loaded.child.call("outputs", key=loaded.name)
    finally:
        loaded.child.close()


ACTIONS: Dict[str, Callable[[Request, measure.Emit], Dict[str, Any]]] = {
    "probe": probe,
    "bench": bench,
    "outputs": outputs,
    "hold": hold.hold,
    "compare": lambda request, emit: compare.compare(request["models"], _options(request), emit),
    "sustain": lambda request, emit: sustain.sustain(request["models"], _options(request), request["duration_s"], emit),
    "table": lambda request, emit: table.table(request["archive"], request["engine"], request.get("rounds", 3), _options(request), emit),
}

MEASURING = ("bench", "compare", "sustain", "table")


def _read_request() -> Request:
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 1 if not line else 1 << 16)
        if not data:
            break
        line += data
    try:
        request = json.loads(line)
        action = request["action"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunnerError("request", f"standard input does not start with a JSON request: {error}") from error
    if action not in ACTIONS:
        raise RunnerError("request", f"unknown action {action!r}; known: {', '.join(sorted(ACTIONS))}")
    return dict(request)


def _act(request: Request, emit: measure.Emit) -> Dict[str, Any]:
    """Do what is asked; what measures does so with the clocks held still, where that is asked too."""
    action = ACTIONS[request["action"]]
    native = request.get("native") or request.get("options", {}).get("native")
    if native:
        os.environ[BINARY_VARIABLE] = native
    if request["action"] not in MEASURING:
        return action(request, emit)
    options = _options(request)
    if options.energy and options.meter:
        has_meter(options.meter)
    with tune.tuned(options.tune) as done:
        return dict(action(request, emit), tuned=done)


def answer(output: Output) -> int:
    """Read one request and answer it; the exit code."""
    code = 0
    try:
        request = _read_request()
        output.mark = str(request.get("mark", ""))
        if request.get("hold") and request["action"] != "hold":
            watchdog.start(lambda: None)
        output.event("start", action=request["action"])
        output.event("result", result=_act(request, output.event))
    except RunnerError as error:
        output.event("error", error=error.to_dict())
        code = 1
    except Exception as error:
        traceback.print_exc()
        output.event("error", error={"kind": "runner", "message": f"{type(error).__name__}: {error}"})
        code = 1
    return code
