"""From an address to a session on a device, and the runner in it."""

from edgeprune.devices.address import Address, parse_address
from edgeprune.devices.connect import connect
from edgeprune.devices.pack import build_runner
from edgeprune.devices.process import Completed, Process
from edgeprune.devices.runner import Runner, open_runner
from edgeprune.devices.session import Session
from edgeprune.devices.targets import (
    Target,
    add_group,
    add_target,
    list_groups,
    list_targets,
    named_targets,
    remove_target,
    resolve_target,
    resolve_targets,
)

__all__ = [
    "Address",
    "Completed",
    "Process",
    "Runner",
    "Session",
    "Target",
    "add_group",
    "add_target",
    "build_runner",
    "connect",
    "list_groups",
    "list_targets",
    "named_targets",
    "open_runner",
    "parse_address",
    "remove_target",
    "resolve_target",
    "resolve_targets",
]
