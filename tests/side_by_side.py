"""How tests are shared among processes that run side by side (pytest-xdist): files stay whole, so that what they share is made once.

Those that measure or time something on this machine follow each other, whatever their file: there is one device lock.  So do those on
the virtual board: there is one board.  Other releases go to servers that have a device lock of their own.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

BOARD = ("board/", "release/test_build_board")
MEASURING = (
    *("bench/", "cli/test_bench", "devices/", "search/test_prune", "search/test_search_device"),
    *("release/test_push.py", "release/test_push_deploy", "release/test_push_power"),
    *("runner/test_energy", "runner/test_throttle_guard", "runner/test_hold", "runner/test_native", "runner/test_tune"),
)


def group_of(test: str) -> str:
    """The group of a test by its id: ``board``, ``measuring``, or its file."""
    file = test.partition("::")[0]
    name = file.partition("tests/")[2]
    return "board" if name.startswith(BOARD) else "measuring" if name.startswith(MEASURING) else file


class Groups(LoadScopeScheduling):
    """Gives whole groups to processes."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
