"""``python activator.pyz COMMAND``: its arguments as a line of JSON on standard input, one JSON object on standard output."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from typing import Any, Dict, List, Optional

from . import after, commands
from .files import Refused
from .store import check_names

PROTOCOL = 1
_LOCK_WAIT_S = 60.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_READING = {"products": commands.products, "status": commands.status, "held": commands.held, "after": after.after}
_CHANGING = {
    "begin": commands.begin,
    "stage": commands.stage,
    "switch": commands.switch,
    "commit": commands.commit,
    "rollback": commands.rollback,
    "recover": commands.recover,
    "abandon": commands.abandon,
    "prune": commands.prune,
}


def _change(command: str, root: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
    """One command at a time; the kernel frees the lock when its process ends."""
    if command == "begin":
        for name in ("objects", "releases"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
    if not os.path.isdir(os.path.join(root, "releases")):
        raise Refused("unknown", "there are no releases in %s" % root)
    if command not in _CHANGING:
        raise Refused("unknown", "%r is not a command" % command)
    with open(os.path.join(root, ".lock"), "a") as file:
        end = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Refused("busy", "another command is working in %s" % root) from None
                time.sleep(0.05)
        return _CHANGING[command](root, **arguments)  # type: ignore[operator]


def answer(command: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
    """Do one command; its answer, or ``{"error": message, "kind": word}``."""
    try:
        root = os.path.expanduser(arguments.pop("root"))
        if "about" in arguments or "version" in arguments:
            check_names(arguments.get("about") or {"version": arguments["version"] or "0", "files": {}})
        done = _READING[command](root, **arguments) if command in _READING else _change(command, root, arguments)
        return dict(done, protocol=PROTOCOL)
    except Refused as error:
        return {"protocol": PROTOCOL, "error": str(error), "kind": error.kind}
    except OSError as error:
        kind = "full" if error.errno in _FULL else "disk"
        return {"protocol": PROTOCOL, "error": "%s: %s" % (error.filename or command, error.strerror), "kind": kind}


def _share(base: str) -> None:
    """Who may read the folder of all products, or its group write, may do so with what is made below it, whatever the user's umask."""
    if os.path.isdir(base):
        os.umask((~os.stat(base).st_mode & 0o077) | 0o002)


def main(arguments: Optional[List[str]] = None) -> int:
    """Do the command that is named; ``recover FOLDER`` needs no input: for each product below FOLDER."""
    command, *more = sys.argv[1:] if arguments is None else arguments
    if command == "recover" and more:
        folder = os.path.expanduser(more[0])
        _share(folder)
        done = {name: answer("recover", {"root": os.path.join(folder, name)}) for name in commands.products(folder)["products"]}
        print(json.dumps(done))
        return int(any("error" in item for item in done.values()))
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 1 if not line else 1 << 16)  # what follows the line is a command's own to read
        if not data:
            break
        line += data
    request = json.loads(line)
    mark = request.pop("mark", "")  # what the answer begins with: what others print is not an answer
    _share(os.path.dirname(os.path.expanduser(request["root"])))
    print(mark + json.dumps(answer(command, request)))
    return 0
