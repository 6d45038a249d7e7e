"""Removing from a device all that edgeprune put there."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.devices.address import parse_address
from edgeprune.devices.connect import connect, with_retries
from edgeprune.devices.events import OnEvent
from edgeprune.devices.framing import new_mark
from edgeprune.devices.pythons import discover
from edgeprune.devices.runner import Runner, push_runner
from edgeprune.devices.session import Session
from edgeprune.errors import DeviceError, NoRuntimeError, TargetError

# One line a path: $0, its kilobytes and itself.  The folders themselves go when nothing of others is in them.
_LIST = """
cache=${XDG_CACHE_HOME:-$HOME/.cache}/edgeprune
set -- "$HOME"/.edgeprune/venv "$HOME"/.edgeprune/venv.new "$HOME"/.edgeprune/venv.old "$HOME"/.edgeprune/wheels \\
  "$cache"/tuned.json "$cache"/tuned.json.clocks "$cache"/runner-*.pyz "$cache"/session-* "$cache"/*.part "$cache"/.sessions
for path in "$@"; do [ ! -e "$path" ] && [ ! -L "$path" ] || printf '%s%s\\n' "$0" "$(du -sk "$path")"; done
for lock in /tmp/edgeprune.lock "${TMPDIR:-/tmp}"/edgeprune.lock; do
  if [ -O "$lock" ]; then printf '%s%s\\n' "$0" "$(du -sk "$lock")"; break; fi
done
"""
_REMOVE = """
rm -rf -- "$@"
rmdir "$HOME/.edgeprune" "${XDG_CACHE_HOME:-$HOME/.cache}/edgeprune" "$HOME/.cache" 2> /dev/null || :
"""


@dataclass(frozen=True)
class Removed:
    """A file or folder on the device, and its size on its disk."""

    path: str
    bytes: int


def tear_down(
    address: str, *, dry_run: bool = False, lock_timeout_s: float = 60.0, retries: int = 2, on_event: OnEvent | None = None
) -> tuple[Removed, ...]:
    """Remove edgeprune's environment, runners, sessions and lock from a device; what was removed, or with ``dry_run`` would be.

    Waits until nobody uses the device; raises :class:`DeviceBusyError` after ``lock_timeout_s``, :class:`DeviceError` when something
    cannot be removed, and what connecting raises.
    """

    def once() -> tuple[Removed, ...]:
        with connect(address) as session:
            if session.address == "local:":
                raise TargetError("local: is this machine, where edgeprune itself is", remedy="Its caches are in ~/.cache/edgeprune.")
            found = _listed(session)
            if dry_run or not found:
                return found
            holder = _hold(session, parse_address(address).python, lock_timeout_s, on_event)
            session.run(["sh", "-c", _REMOVE, "edgeprune", *(item.path for item in _listed(session))], timeout_s=600)
            if holder:
                holder.release()
            if left := _listed(session):
                raise DeviceError(f"{session.address} still has {', '.join(item.path for item in left)}", remedy="Check who owns it.")
            return found

    return with_retries(once, retries)


def _hold(session: Session, python: str | None, timeout_s: float, on_event: OnEvent | None) -> Runner | None:
    """Take the device's lock; None where there is no Python: nothing can be running then."""
    try:
        found = discover(session, [python] if python else [])
    except NoRuntimeError:
        return None
    runner = Runner(session, found.pythons[-1], push_runner(session, found.cache), {})
    runner.hold(found.cache, True, timeout_s, on_event)
    return runner


def _listed(session: Session) -> tuple[Removed, ...]:
    mark, lines = new_mark(), list[str]()
    session.run(["sh", "-c", _LIST, mark], timeout_s=120, on_line=lines.append, mark=mark)
    pairs = [line.split("\t", 1) for line in lines]
    return tuple(Removed(pair[1], int(pair[0]) * 1024) for pair in pairs if len(pair) == 2 and pair[0].isdecimal())
