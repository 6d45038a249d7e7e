"""One set of weights under two graphs: what an inference computes, and what a training step does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.utils import _pytree as pytree


class TrainableGraph(nn.Module):
    """Runs ``training`` in training mode and ``evaluation`` otherwise.  Parameters, buffers and modules that both name are the latter's."""

    def __init__(self, evaluation: fx.GraphModule, training: fx.GraphModule) -> None:
        super().__init__()
        _mount(self, evaluation)
        _mount(self, training)
        self.graph, self.training_graph = evaluation.graph, training.graph
        self.recompile()

    def recompile(self) -> None:
        """Follow changes of the graphs."""
        self._functions = {False: _function(self, self.graph), True: _function(self, self.training_graph)}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs, in the structure that the original has in this mode."""
        graph = self.training_graph if self.training else self.graph
        return graph.process_outputs(self._functions[self.training](self, *pytree.tree_leaves((args, kwargs))))


def _mount(root: nn.Module, other: nn.Module) -> None:
    """Put what ``other`` holds into ``root``, where that does not have it."""
    root._parameters.update({name: value for name, value in other._parameters.items() if name not in root._parameters})
    root._buffers.update({name: value for name, value in other._buffers.items() if name not in root._buffers})
    for name, child in other._modules.items():
        if name not in root._modules:
            root.add_module(name, child)
        elif child is not None:
            _mount(root.get_submodule(name), child)


def _function(root: nn.Module, graph: fx.Graph) -> Callable[..., Any]:
    """The graph's code, which takes ``self`` and flat inputs."""
    plain = fx.Graph()
    plain.output(plain.graph_copy(graph, {}))
    function: Callable[..., Any] = type(fx.GraphModule(root, plain)).forward
    return function
