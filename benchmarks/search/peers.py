"""Other people's pruners, each installed in a folder of its own beside the project's environment, brought to the benchmark's terms."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.coverage.peers import folder as torch_pruning_folder
from benchmarks.coverage.peers import install as install_torch_pruning
from benchmarks.search.cases import Case
from benchmarks.search.meet import Built
from benchmarks.search.session import macs_of, shape_key
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.task import Task
from edgeprune.tuning import recalibrate

STEPS, DEEPEST = 100, 0.9
"""Iterative steps of Torch-Pruning, and the share of channels that go by the last."""

GRADIENT_BATCHES, SCORE_BATCHES = 2, 4
"""Training batches for a step's gradients (Torch-Pruning), and for a candidate's score (FastNAS)."""

QUEUE = 50
"""Batches that FastNAS keeps for batch-norm statistics (its ``MODELOPT_QUEUE_MAXLEN``): with fewer it takes none."""

MODELOPT = (
    "nvidia-modelopt==0.47.0",
    "ninja",
    "nvidia-ml-py",
    "omegaconf",
    "antlr4-python3-runtime==4.9.3",
    "pulp<4",
    "torchprofile==0.0.4",
)


def modelopt_folder() -> Path:
    """Where ModelOpt is installed."""
    return torch_pruning_folder().with_name("modelopt")


def install_modelopt() -> None:
    """Install it and what it needs beside torch, if it is not there."""
    if not any(modelopt_folder().glob("nvidia_modelopt-0.47.0.dist-info")):
        what = ["--quiet", "--no-deps", "--target", str(modelopt_folder()), *MODELOPT]
        subprocess.run([sys.executable, "-m", "pip", "install", *what], check=True, stdout=sys.stderr)


def plain(model: nn.Module, shortcuts: bool) -> nn.Module:
    """A copy that the tools understand: subclasses of convolutions as convolutions; with ``shortcuts``, zero-padding shortcuts (option A of
    He et al., 2016) as 1 x 1 convolutions that compute the same (option B's form)."""
    result = copy.deepcopy(model).eval()
    for name, module in list(result.named_modules()):
        parent = result.get_submodule(name.rpartition(".")[0])
        child = name.rpartition(".")[2]
        if isinstance(module, nn.Conv2d) and type(module) is not nn.Conv2d:
            module.__class__ = nn.Conv2d
        elif shortcuts and type(module).__name__ == "Shortcut":
            setattr(parent, child, _as_convolution(parent.conv1.in_channels, module.added))
    return result


def has_shortcuts(model: nn.Module) -> bool:
    """Whether there are zero-padding shortcuts."""
    return any(type(module).__name__ == "Shortcut" for module in model.modules())


def _as_convolution(width_in: int, added: int) -> nn.Conv2d:
    convolution = nn.Conv2d(width_in, width_in + added, 1, 2, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        places = torch.arange(width_in)
        convolution.weight[places + added // 2, places] = 1.0
    return convolution


def head_of(model: nn.Module) -> nn.Module:
    """The last layer, whose outputs are the classes."""
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]


def keep(model: nn.Module, shortcuts: bool, folder: Path) -> None:
    """Keep a peer's model: its tensors, whose shapes are its widths."""
    tensors = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "peer.safetensors", metadata={"shortcuts": str(int(shortcuts))})


def kept(dense: nn.Module, folder: Path) -> nn.Module:
    """The peer's model kept in ``folder``, made from the dense one."""
    with safe_open(folder / "peer.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        shortcuts = file.metadata()["shortcuts"] == "1"
    return shaped(dense, shortcuts, tensors)


def proposed(dense: nn.Module, shortcuts: bool, model: nn.Module, tool: str, share: float) -> Built:
    """A peer's model as the benchmark takes it: of the dense model's own classes."""
    made = shaped(dense, shortcuts, model.state_dict())
    return Built(made, f"{tool}-{shape_key(made)}", share, lambda folder: keep(made, shortcuts, folder))


def shaped(dense: nn.Module, shortcuts: bool, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the dense model with the widths and values of ``tensors``: its layers get their sizes from the shapes."""
    model = plain(dense, True) if shortcuts else copy.deepcopy(dense)
    for name, module in model.named_modules():
        weight = tensors.get(f"{name}.weight")
        if isinstance(module, nn.Conv2d) and weight is not None:
            depthwise = module.groups > 1
            module.out_channels = weight.shape[0]
            module.in_channels = weight.shape[0] if depthwise else weight.shape[1]
            module.groups = weight.shape[0] if depthwise else 1
        elif isinstance(module, nn.Linear) and weight is not None:
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and weight is not None:
            module.num_features = weight.shape[0]
        for child, _ in list(module.named_parameters(recurse=False)):
            setattr(module, child, nn.Parameter(tensors[f"{name}.{child}" if name else child].clone()))
        for child, _ in list(module.named_buffers(recurse=False)):
            module.register_buffer(child, tensors[f"{name}.{child}" if name else child].clone())
    return model.eval()


class TorchPruning:
    """Group Taylor importance, global ranking; with ``isomorphic``, a ranking for each kind of substructure (Fang et al., "Isomorphic
    Pruning", 2024). The knob is the share of MACs: of all iterative steps, taken once, the nearest below."""

    def __init__(self, case: Case, task: Task, isomorphic: bool) -> None:
        install_torch_pruning()
        if str(torch_pruning_folder()) not in sys.path:
            sys.path.append(str(torch_pruning_folder()))
        self.dense, whole = task.model, macs_of(task.model, task.example_inputs)
        self.steps = [
            (macs_of(model, task.example_inputs) / whole, model) for model in _torch_pruning_steps(task, case.round_to, isomorphic)
        ]

    def __call__(self, x: float) -> Built:
        """The largest of the steps with at most that share of MACs."""
        fitting = [step for step in self.steps if step[0] <= x]
        if not fitting:
            raise InfeasibleBudgetError(f"Torch-Pruning's last step has {100 * self.steps[-1][0]:.1f} % of the MACs, not {100 * x:.1f} %")
        share, model = max(fitting, key=lambda step: step[0])
        return proposed(self.dense, has_shortcuts(self.dense), model, "tp", share)


def _torch_pruning_steps(task: Task, round_to: int, isomorphic: bool) -> Iterator[nn.Module]:
    """The model after each step. Before each, gradients on training batches and batch-norm statistics are measured again."""
    import torch_pruning as tp

    model = plain(task.model, True)
    batches = list(islice(task.train, GRADIENT_BATCHES))  # type: ignore[arg-type]
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs=task.example_inputs[0],
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        isomorphic=isomorphic,
        pruning_ratio=DEEPEST,
        iterative_steps=STEPS,
        round_to=round_to,
        ignored_layers=[head_of(model)],
    )
    for _ in range(STEPS):
        model.zero_grad()
        for inputs, targets in batches:
            task.loss(model(inputs), targets).backward()
        pruner.step()
        recalibrate(model, batches)
        yield copy.deepcopy(model)


class FastNAS:
    """ModelOpt's FastNAS under a FLOPs constraint, its divisors the benchmark's; on the model as it is, or, where the constraint is out of
    that space, with its shortcuts as convolutions."""

    def __init__(self, case: Case, task: Task, cache: Path) -> None:
        install_modelopt()
        if str(modelopt_folder()) not in sys.path:
            sys.path.append(str(modelopt_folder()))
        self.case, self.task, self.cache = case, task, cache
        self.whole = macs_of(task.model, task.example_inputs)
        self.batches = list(islice(task.train, SCORE_BATCHES))  # type: ignore[arg-type]
        inputs, targets = (torch.cat(list(values)) for values in zip(*self.batches, strict=True))
        size = len(targets) // QUEUE
        self.pieces = [*zip(inputs.split(size), targets.split(size), strict=True)][:QUEUE]

    def __call__(self, x: float) -> Built:
        """The best subnet it finds with at most that share of the FLOPs."""
        problem: Exception | None = None
        for shortcuts in (False, True)[: 1 + has_shortcuts(self.task.model)]:
            try:
                model = self._search(x, shortcuts)
            except ValueError as error:
                problem = error
                continue
            share = macs_of(model, self.task.example_inputs) / self.whole
            return proposed(self.task.model, shortcuts, model, "fastnas", share)
        raise InfeasibleBudgetError(f"FastNAS has no subnet of {100 * x:.1f} % of the FLOPs: {problem}")

    def _search(self, x: float, shortcuts: bool) -> nn.Module:
        import modelopt.torch.prune as mtp
        from modelopt.torch.prune.fastnas import FastNASConfig

        config = FastNASConfig().model_dump()
        _set_divisors(config, self.case.round_to)
        settings = {
            "score_func": self._score,
            "data_loader": self.pieces,
            "checkpoint": str(
                self.cache / f"fastnas-{self.case.round_to}-{int(shortcuts)}.pth"
            ),  # its sensitivities: of the dense model alone
            "verbose": False,
        }
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # its tables and bars
            warnings.simplefilter("ignore")
            model, _ = mtp.prune(
                plain(self.task.model, shortcuts),
                mode=[("fastnas", config)],
                constraints={"flops": f"{100 * x:.2f}%"},
                dummy_input=self.task.example_inputs[0],
                config=settings,
            )
        return model

    def _score(self, model: nn.Module) -> float:
        model.eval()
        with torch.inference_mode():
            return sum(self.task.metric(model(inputs), targets) for inputs, targets in self.batches) / len(self.batches)


def _set_divisors(config: Any, divisor: int) -> None:
    for name, value in config.items():
        if name in ("channel_divisor", "feature_divisor", "channels_divisor", "features_divisor"):
            config[name] = divisor
        elif isinstance(value, dict):
            _set_divisors(value, divisor)
