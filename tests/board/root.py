"""The root file system of the virtual board: an arm64 Debian whose packages are only unpacked, so that building it runs no foreign code."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE, PYTHON = "bookworm", (3, 11)  # glibc 2.36
PACKAGES = ("?essential", "base-passwd", "passwd", "openssh-server", "openssh-sftp-server", "python3", "libstdc++6", "procps", "mount")
TOOLS = {"mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static", "ssh-keygen": "openssh-client", "unshare": "util-linux"}
USER, UID = "pi", 1000
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_ACCOUNTS = {
    "passwd": f"sshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n{USER}:x:{UID}:{UID}:Pi:/home/{USER}:/bin/bash\n",
    "group": f"{USER}:x:{UID}:\n",
}
_FILES = {
    "etc/hostname": "board\n",
    "etc/hosts": "127.0.0.1 localhost board\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    f"home/{USER}/.profile": "umask 022\n",
}
_NOT_NEEDED = ("doc", "man", "locale", "info", "zoneinfo", "perl", "lintian")


def why_not() -> str | None:
    """Why the board cannot be built or run here, or None.  Registers the emulator with the kernel where that is possible."""
    if os.getuid() != 0:
        return "only root can build and start the virtual board"
    if missing := [package for tool, package in TOOLS.items() if shutil.which(tool) is None]:
        return f"the virtual board needs packages: apt-get install {' '.join(missing)} binfmt-support"
    if not (_BINFMT / "status").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], check=False, capture_output=True)
    if not (_BINFMT / "qemu-aarch64").exists() and shutil.which("update-binfmts"):
        subprocess.run(["update-binfmts", "--enable", "qemu-aarch64"], check=False, capture_output=True)
    if not (_BINFMT / "qemu-aarch64").exists():
        return "the kernel cannot be told to run aarch64 programs: binfmt_misc is not available (a container without privileges?)"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False, capture_output=True).returncode != 0:
        return "this container may not make namespaces"
    return None


def cache_folder() -> Path:
    """Where built roots are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgeprune-board"


def recipe_key() -> str:
    """Changes whenever what is built would."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def build(folder: Path | None = None) -> Path:
    """The root of this recipe, built unless it is there; roots of other recipes are removed.

    Raises :class:`RuntimeError` with the builder's last words.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / f"root-{recipe_key()}"
    with open(folder / "lock", "w") as lock:  # two test processes build it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        for old in folder.glob("root-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=folder) as new:
            os.chmod(new, 0o755)
            _unpack(Path(new) / "root")
            _settle(Path(new) / "root")
            os.rename(Path(new) / "root", root)
    return root


def _unpack(root: Path) -> None:
    options = ["--quiet", "--mode=root", "--variant=extract", "--architectures=arm64", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
    options += [f"--include={package}" for package in PACKAGES]
    options += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"']
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_NEEDED]
    done = subprocess.run(["mmdebstrap", *options, SUITE, str(root)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"mmdebstrap failed: {done.stderr[-1500:]}")


def _settle(root: Path) -> None:
    """What the packages' own scripts would have done: accounts, links, host key, library cache."""
    for name, more in _ACCOUNTS.items():
        (root / f"etc/{name}").write_text((root / f"usr/share/base-passwd/{name}.master").read_text().replace("root:*:", "root:x:") + more)
    accounts = [line.split(":")[0] for line in (root / "etc/passwd").read_text().splitlines()]
    (root / "etc/shadow").write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in accounts))
    (root / "etc/shadow").chmod(0o640)
    for link, program in (("bin/sh", "dash"), ("usr/bin/awk", "mawk"), ("usr/bin/python3", "python3.11")):
        (root / link).unlink(missing_ok=True)
        (root / link).symlink_to(program)
    for name in ("run/sshd", "proc", "sys", "dev", f"home/{USER}/.ssh"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    shutil.copy(root / "usr/share/openssh/sshd_config", root / "etc/ssh/sshd_config")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / "etc/ssh/ssh_host_ed25519_key")], check=True)
    subprocess.run(["ldconfig", "-r", str(root)], check=True)
    _compile(root / "usr/lib/python{}.{}".format(*PYTHON), root)
    for path in (root / f"home/{USER}", *(root / f"home/{USER}").rglob("*")):
        os.chown(path, UID, UID)
    (root / f"home/{USER}/.ssh").chmod(0o700)


def _compile(library: Path, root: Path) -> None:
    """Compile the standard library, by a Python of this machine that is of its version: emulated programs start in half the time."""
    python = sys.executable if sys.version_info[:2] == PYTHON else shutil.which("python{}.{}".format(*PYTHON))
    if python is not None:
        subprocess.run([python, "-m", "compileall", "-q", "-s", str(root), str(library)], check=True, stdout=subprocess.DEVNULL)
