"""``pneumonia.py``, scored by the share of the ill that are found where 90 % of the healthy are left alone: the floor of ``--max-drop``."""

from __future__ import annotations

from dataclasses import replace

import pneumonia

from edgeprune.task import Task


def task() -> Task:
    return replace(pneumonia.task(), metric_name="sensitivity", name="pneumonia_sensitivity")
