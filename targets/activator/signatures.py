"""Signatures, as the device's own ssh-keygen checks them."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any, Dict, List

from .files import Refused


def verify_signatures(folder: str, signers: str, check: Dict[str, Any]) -> int:
    """How many of those that the file ``signers`` allows have signed the manifest in a folder.

    ``check``: the names of ``manifest`` and ``signatures``, the ``namespace``, the ``threshold`` of different signers, and the time
    ``now_s`` at which their keys must be valid.  :class:`Refused` when there are fewer.
    """
    with open(os.path.join(folder, check["manifest"]), "rb") as file:
        manifest = file.read()
    moment = "verify-time=" + time.strftime("%Y%m%d%H%M%S", time.gmtime(check["now_s"]))
    good = set()
    for name in check["signatures"]:
        common = ["-s", os.path.join(folder, name), "-f", signers, "-O", moment]
        found = tuple(_keygen(["-Y", "find-principals", *common], manifest).splitlines())  # of one line of the file: one signer
        if found and _keygen(["-Y", "verify", "-I", found[0], "-n", check["namespace"], *common], manifest):
            good.add(found)
    if len(good) < check["threshold"]:
        raise Refused("signature", "%s accepts %d of the %d signers asked for" % (signers, len(good), check["threshold"]))
    return len(good)


def _keygen(arguments: List[str], data: bytes) -> str:
    """What ssh-keygen says when it succeeds, else nothing."""
    environment = dict(os.environ, TZ="UTC", LC_ALL="C")
    try:
        done = subprocess.run(["ssh-keygen", *arguments], input=data, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise Refused("keygen", "there is no ssh-keygen to check signatures with") from None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
