"""Signatures, as the device's own ssh-keygen checks them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import datetime, timezone
from typing import Any, Dict, List, Tuple

from .files import Refused

MANIFEST = "manifest.json"


def verify_signatures(folder: str, signers: str, check: Dict[str, Any]) -> int:
    """How many of those that the file ``signers`` allows have signed the manifest in a folder.

    ``check``: the names of ``manifest`` and ``signatures``, the ``namespace``, the ``threshold`` of different signers, and the time
    ``now_s`` at which their keys must be valid.  :class:`Refused` when there are fewer.
    """
    with open(os.path.join(folder, check["manifest"]), "rb") as file:
        manifest = file.read()
    with open(signers, "rb") as file:
        timed = b"valid-" in file.read()  # before OpenSSH 8.7 ssh-keygen knows neither such lines nor the option
    moment = ["-O", "verify-time=" + time.strftime("%Y%m%d%H%M%S", time.gmtime(check["now_s"]))] if timed else []
    good, why = set(), ""
    for name in check["signatures"]:
        common = ["-s", os.path.join(folder, name), "-f", signers, *moment]
        said, why = _keygen(["-Y", "find-principals", *common], manifest)
        found = tuple(said.splitlines())  # of one line of the file: one signer
        if found:
            said, why = _keygen(["-Y", "verify", "-I", found[0], "-n", check["namespace"], *common], manifest)
            if said:
                good.add(found)
    if len(good) < check["threshold"]:
        message = "%s accepts %d of the %d signers asked for" % (signers, len(good), check["threshold"])
        raise Refused("signature", "%s (ssh-keygen: %s)" % (message, why) if why else message)
    return len(good)


def recheck(folder: str, signers: str, namespace: str, now_s: float) -> None:
    """Check a release that was laid out before as if it came now: its signers may have been revoked since, and it may have expired.

    ``signers``: where there is no such file, signatures do not count on this device.  :class:`Refused` says why it must not be used.
    """
    with open(os.path.join(folder, MANIFEST), "rb") as file:
        manifest = json.loads(file.read())
    try:
        threshold, expires = int(manifest["threshold"]), manifest["expires"]
        expires_s = float("inf") if expires is None else _seconds(expires)
    except (LookupError, TypeError, ValueError):
        raise Refused("damaged", "%s is damaged" % os.path.join(folder, MANIFEST)) from None
    if now_s >= expires_s:
        raise Refused("expired", "release %s expired at %s" % (manifest.get("version"), expires))
    if os.path.exists(signers):
        check = {"manifest": MANIFEST, "namespace": namespace, "threshold": threshold, "now_s": now_s}
        verify_signatures(folder, signers, dict(check, signatures=_signatures_in(folder)))


def is_signed(folder: str, signers: str, namespace: str, now_s: float) -> bool:
    """Whether anyone whom the file ``signers`` allows has signed the release in a folder."""
    check = {"manifest": MANIFEST, "namespace": namespace, "threshold": 1, "now_s": now_s, "signatures": _signatures_in(folder)}
    try:
        return verify_signatures(folder, signers, check) > 0
    except Refused as error:
        if error.kind != "signature":
            raise
        return False


def _signatures_in(folder: str) -> List[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith(MANIFEST + ".") and name.endswith(".sig"))


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def _keygen(arguments: List[str], data: bytes) -> Tuple[str, str]:
    """What ssh-keygen says when it succeeds, else nothing; and its last complaint when it does not."""
    environment = dict(os.environ, TZ="UTC", LC_ALL="C")
    try:
        done = subprocess.run(["ssh-keygen", *arguments], input=data, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise Refused("keygen", "there is no ssh-keygen to check signatures with") from None
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "replace"), ""
    return "", (done.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
