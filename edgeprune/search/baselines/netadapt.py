"""NetAdapt: greedy rounds with a latency table.  Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation", 2018."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

from torch import nn

from edgeprune.errors import InputError
from edgeprune.importance import Saliency, score
from edgeprune.search.baselines.context import SearchContext
from edgeprune.surgery import Plan, apply, plan_from_saliency, restore
from edgeprune.tuning import finetune, mean_divergence, outputs_on

REDUCTION, DECAY = 0.06, 0.97
"""The share of the dense latency that the first round cuts, and what every round multiplies it by (the paper's are 0.025..0.05, 0.96)."""

PROPOSALS = 6
"""Groups tried in one round: those that lose the least L2 norm; the paper tries all layers."""

SHORT, HELD_OUT = 2, 2
"""Training batches of a proposal's short tune, and others it is judged on."""


@dataclass(frozen=True)
class State:
    """The end of a round: widths, the weights tuned so far (in the dense shapes), what the next round cuts (ms)."""

    widths: dict[str, int]
    model: nn.Module
    cut_ms: float
    plan: Plan


def netadapt(context: SearchContext, target_ms: float) -> Plan:
    """Cut the latency a little in every round: by the group that, narrowed alone until the round's latency is met and tuned for a moment,
    moves the answers least.

    Loss is the divergence from the dense model's answers on batches of the training data. Rounds are kept, and shared by targets. Only
    the channels to keep are returned: the weights of short tunes serve the search. Raises :class:`InfeasibleBudgetError`,
    :class:`InputError` without training data.
    """
    if context.task.train is None:
        raise InputError("NetAdapt needs training data (task.train)", remedy="Give the task data, or use another method.")
    choices = context.choices
    context.require({name: widths[0] for name, widths in choices.items()}, target_ms, "NetAdapt")
    states: list[State] = context.notes.setdefault("netadapt", [_start(context)])
    above = [(latency, state) for state in states if (latency := context.latency_ms(state.widths)) > target_ms]
    latency, state = min(above, key=lambda one: one[0], default=(0.0, states[0]))
    while latency > target_ms:
        state = _round(context, state, latency, max(latency - state.cut_ms, target_ms))
        latency = context.latency_ms(state.widths)
        states.append(state)
    return state.plan


def _start(context: SearchContext) -> State:
    dense = dict(context.planner.dense)
    return State(dense, context.task.model, REDUCTION * context.latency_ms(dense), context.plan("l2", dense))


def _round(context: SearchContext, state: State, now_ms: float, limit_ms: float) -> State:
    """The best of the round's proposals."""
    assert context.task.train is not None
    saliency = score(replace(context.task, model=state.model), context.analysis, "l2")  # what went is 0 and goes first
    batches = list(islice(context.task.batches("train"), SHORT + HELD_OUT))
    held_out = batches[SHORT:] or batches
    wanted = outputs_on(context.task.model, held_out)
    tuning = replace(context.task, train=batches[:SHORT], validation=None, evaluate=None)
    best: tuple[float, State] | None = None
    for widths in _proposals(context, state, saliency, now_ms, limit_ms):
        plan = plan_from_saliency(context.analysis, saliency, widths)
        pruned = apply(state.model, context.analysis, plan)
        finetune(pruned.model, tuning, teacher=context.task.model, epochs=1)
        loss = mean_divergence(pruned.model, context.task, held_out, wanted)
        if best is None or loss < best[0]:
            best = loss, State(widths, restore(state.model, context.analysis, pruned), DECAY * state.cut_ms, plan)
    if best is None:  # times that fall as a group gets wider: no single group's narrowing saves any
        context.require(state.widths, limit_ms, "NetAdapt")
        return state
    return best[1]


def _proposals(context: SearchContext, state: State, saliency: Saliency, now_ms: float, limit_ms: float) -> list[dict[str, int]]:
    """For every group the largest width that meets the limit with all others as they are, and of these the most promising; where no group
    can meet it alone, the group that goes narrowest at the least L2 norm for a millisecond."""
    fitting: list[tuple[float, dict[str, int]]] = []
    partly: list[tuple[float, dict[str, int]]] = []
    for name, choices in context.choices.items():
        tried = [state.widths | {name: width} for width in reversed(choices) if width < state.widths[name]]
        for widths in tried:
            if context.latency_ms(widths) <= limit_ms:
                fitting.append((_lost(saliency, name, widths), widths))
                break
        else:
            if tried and (saved := now_ms - context.latency_ms(tried[-1])) > 0:
                partly.append((_lost(saliency, name, tried[-1]) / saved, tried[-1]))
    found = sorted(fitting, key=lambda one: one[0])[:PROPOSALS] or sorted(partly, key=lambda one: one[0])[:1]
    return [widths for _, widths in found]


def _lost(saliency: Saliency, group: str, widths: Mapping[str, int]) -> float:
    """L2 saliency that goes with the channels beyond the group's width."""
    rows = saliency[group].copy()
    rows.sort(axis=1)
    return float(rows[:, : rows.shape[1] - widths[group]].sum())
