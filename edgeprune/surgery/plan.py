"""A plan: which channels of every group stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.decode import convert
from edgeprune.errors import PlanError
from edgeprune.files import parse_json
from edgeprune.graph import Analysis, Block, Group


@dataclass(frozen=True)
class Plan:
    """``kept``: for every group, a tuple of places for each of its rows, all equally long, sorted.  Groups not named stay whole.
    Nothing kept of all the groups of a removable block drops the block.

    ``fingerprint``: the structure it was made for.
    """

    fingerprint: str
    kept: Mapping[str, tuple[tuple[int, ...], ...]]

    def width(self, group: Group) -> int:
        """How many of the group's ``size`` units stay."""
        rows = self.kept.get(group.name)
        return len(rows[0]) if rows else group.size

    def to_json(self) -> str:
        """Portable text form."""
        return json.dumps({"fingerprint": self.fingerprint, "kept": self.kept}, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Raises :class:`PlanError` on anything but what :meth:`to_json` wrote."""
        try:
            return convert(parse_json(text), cls)
        except ValueError as error:
            raise PlanError(f"not a plan: {error}") from error


def plan_from_saliency(analysis: Analysis, saliency: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> Plan:
    """Keep in every row of every group the ``widths[group]`` most salient units.  ``saliency``: (R, K) arrays."""
    kept = {}
    for group in analysis.groups:
        width = widths.get(group.name, group.size)
        if not (0 if group.name in analysis.block_of else 1) <= width <= group.size:
            raise PlanError(f"group {group.name} cannot keep {width} of {group.size}")
        if width < group.size:
            order = np.argsort(-saliency[group.name], axis=1, kind="stable")[:, :width]
            kept[group.name] = tuple(tuple(int(place) for place in sorted(row)) for row in order)
    return Plan(analysis.fingerprint, kept)


def removed_channels(analysis: Analysis, plan: Plan) -> np.ndarray:
    """For every channel whether it goes; raises :class:`PlanError` when the plan is for another structure or malformed."""
    if plan.fingerprint != analysis.fingerprint:
        raise PlanError("the plan was made for another model structure", remedy="Analyse this model again and make a new plan.")
    gone = np.zeros(len(analysis.roots), bool)
    groups = {group.name: group for group in analysis.groups}
    for name, rows in plan.kept.items():
        if name not in groups:
            raise PlanError(f"the plan names the unknown group {name}")
        group = groups[name]
        fits = len(rows) == group.rows.shape[0] and len({len(row) for row in rows}) == 1 and (rows[0] or name in analysis.block_of)
        if not fits or any(list(row) != sorted(set(row)) or not set(row) <= set(range(group.size)) for row in rows):
            raise PlanError(f"the plan's entry for group {name} does not fit its {group.rows.shape[0]} rows of {group.size}")
        for row, places in zip(group.rows, rows, strict=True):
            gone[np.delete(row, np.array(places, np.int64))] = True
    for block in analysis.blocks:
        if len({not rows or not rows[0] for rows in (plan.kept.get(name, ((0,),)) for name in block.groups)}) > 1:
            raise PlanError(f"block {block.name} can only be removed whole: all of {', '.join(block.groups)} or none")
    return gone


def dropped_blocks(analysis: Analysis, plan: Plan) -> list[Block]:
    """The blocks of which the plan keeps nothing."""
    return [block for block in analysis.blocks if plan.kept.get(block.groups[0], ((0,),))[0] == ()]
