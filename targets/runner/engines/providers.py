"""ONNX Runtime's execution providers: those built into the package, and plug-ins that are packages of their own.

A provider that cannot start makes ONNX Runtime fall back to the processor with no more than a warning; here that is refused.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Union

from ..accelerators import GPU, NPU, AcceleratorMissing, delegation, missing, names, split

_ENDING = "ExecutionProvider"
_PROCESSOR = f"CPU{_ENDING}"
_NOT_ASKED = (_PROCESSOR, f"Azure{_ENDING}")
_OF_KIND = {
    GPU: ("TensorRT", "CUDA", "MIGraphX", "ROCM", "Dml", "CoreML", "WebGpu", "OpenCL"),
    NPU: ("QNN", "VitisAI", "RKNPU", "CANN", "NNAPI"),
}
"""Which providers stand for ``gpu`` and ``npu``, the first that is there."""
_PLUGINS = ("onnxruntime_ep_webgpu", "onnxruntime_ep_openvino", "onnxruntime_ep_cuda", "onnxruntime_ep_qnn")
_RECORD = "session.record_ep_graph_assignment_info"


class Provider:
    """One provider, its options, and how a session with it is opened.  ``devices``: of a plug-in."""

    def __init__(self, full: str, devices: Optional[List[Any]] = None) -> None:
        self.full, self.devices, self.options = full, devices, {}  # type: str, Optional[List[Any]], Dict[str, str]

    @property
    def name(self) -> str:
        """As it is asked for: ``openvino``."""
        return _short(self.full)

    @property
    def what(self) -> str:
        """Its full name, and the device of a plug-in."""
        kinds = sorted({str(device.device.type).rpartition(".")[2] for device in self.devices or []})
        return self.full + (f" on {', '.join(kinds)}" if kinds else "")

    def open(self, source: Union[str, bytes], options: Any) -> Any:
        """A session; ``AcceleratorMissing`` where ONNX Runtime left the provider out."""
        import onnxruntime

        options.add_session_config_entry(_RECORD, "1")
        if self.devices is not None:
            options.add_provider_for_devices(self.devices, self.options)
            session = onnxruntime.InferenceSession(source, options)
        else:
            session = onnxruntime.InferenceSession(source, options, providers=[(self.full, self.options), _PROCESSOR])
        if self.full not in session.get_providers():
            raise AcceleratorMissing(f"{self.full} could not start, and ONNX Runtime would fall back to the processor without a word")
        return session

    def delegation(self, session: Any) -> Optional[Dict[str, Any]]:
        """What nodes of the optimised graph it took; None before ONNX Runtime 1.23, which does not tell."""
        tell = getattr(session, "get_provider_graph_assignment_info", None)
        if tell is None:
            return None
        taken, left = 0, []
        for part in tell():
            kinds = [node.op_type for node in part.get_nodes()]
            if part.ep_name == _PROCESSOR:
                left += kinds
            else:
                taken += len(kinds)
        return delegation(taken, left)


def _short(full: str) -> str:
    return (full[: -len(_ENDING)] if full.endswith(_ENDING) else full).lower()


def available() -> List[Provider]:
    """All but the processor's, plug-ins last."""
    import onnxruntime

    found = [Provider(name) for name in onnxruntime.get_available_providers() if name not in _NOT_ASKED]
    return found + _plugins(onnxruntime)


def _plugins(onnxruntime: Any) -> List[Provider]:
    """Of the plug-in packages that are installed, and the devices they found; one that does not start is left out."""
    import importlib

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return []
    for module in _PLUGINS:
        try:
            plugin = importlib.import_module(module)
            onnxruntime.register_execution_provider_library(module, plugin.get_library_path())
        except ImportError:
            continue
        except Exception:  # a second registration, or a library whose driver is missing: what it offers decides
            continue
    devices: Dict[str, List[Any]] = {}
    for device in onnxruntime.get_ep_devices():
        if device.ep_name not in _NOT_ASKED:
            devices.setdefault(device.ep_name, []).append(device)
    built_in = onnxruntime.get_available_providers()
    return [Provider(name, items) for name, items in devices.items() if name not in built_in]


def find(accelerator: str) -> Provider:
    """The provider of a name: ``openvino``, ``OpenVINOExecutionProvider``, ``gpu``; ``AcceleratorMissing`` lists those there are."""
    base, options = split(accelerator)
    found = available()
    by_name = {one.name: one for one in found}
    wanted = [_short(name) for name in _OF_KIND.get(base, (base,))]
    chosen = next((by_name[name] for name in wanted if name in by_name), None)
    if chosen is None:
        raise missing(accelerator, "ONNX Runtime", names([{"name": one.name} for one in found]))
    chosen.options = options
    return chosen
