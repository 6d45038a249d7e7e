"""A device that the real adb client talks to: the ADB protocol over TCP, with the shell service (protocol version 2), run on this machine.

Written from AOSP's documents in ``packages/modules/adb`` (``protocol.txt``, ``OVERVIEW.TXT``, ``shell_protocol.h``).  Commands run in a
folder that plays ``/data/local/tmp``, with stand-ins for Android's own tools before the rest of the PATH.
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

_CNXN, _OPEN, _OKAY, _CLSE, _WRTE = (int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE"))
_VERSION, _MAX_DATA = 0x01000001, 256 * 1024
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_CHUNK = 32 * 1024


class Adbd:
    """One device that listens; a context manager.

    ``folder``: its only storage; ``tools``: where :meth:`tool` puts programs such as ``getprop``; ``serial``: its name for adb; ``opened``:
    the services it was asked for; ``shell``: what runs the commands, with ``-c``; ``started_with``: the file that it reads first, if any.
    """

    def __init__(self, folder: Path, features: str = "shell_v2,cmd") -> None:
        self.folder, self.tools = folder / "tmp", folder / "bin"
        self.folder.mkdir(parents=True)
        self.tools.mkdir()
        self.banner = f"device::ro.product.name=oriole;ro.product.model=Pixel 6;ro.product.device=oriole;features={features}\0".encode()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.opened: list[str] = []
        self.shell = "/bin/sh"
        self.started_with: Path | None = None
        self._links: list[_Link] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def tool(self, name: str, script: str) -> None:
        """Put a shell script where commands are found first."""
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                link = _Link(self, self._server.accept()[0])
                self._links.append(link)
                threading.Thread(target=link.serve, daemon=True).start()

    def drop(self) -> None:
        """Cut every connection, as when the cable is pulled."""
        for link in self._links:
            link.close()
        self._links.clear()

    def close(self) -> None:
        """Switch it off."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.drop()

    def __enter__(self) -> Adbd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Link:
    """One connection from an adb server, and its streams."""

    def __init__(self, device: Adbd, sock: socket.socket) -> None:
        self.device, self._sock = device, sock
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._streams: dict[int, _Shell] = {}

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        header = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._lock, suppress(OSError):
            self._sock.sendall(header + data)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._sock.recv(size - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                command, first, second, size, _, magic = struct.unpack("<6I", self._exactly(24))
                assert command ^ 0xFFFFFFFF == magic
                self._take(command, first, second, self._exactly(size))
        self.close()

    def _take(self, command: int, first: int, second: int, data: bytes) -> None:
        stream = self._streams.get(second)
        if command == _CNXN:
            self.send(_CNXN, _VERSION, _MAX_DATA, self.device.banner)
        elif command == _OPEN:
            service, own = data.rstrip(b"\0").decode(), next(self._ids)
            self.device.opened.append(service)
            kind, _, line = service.partition(":")
            if kind.split(",")[0] != "shell":
                self.send(_CLSE, 0, first)
                return
            self.send(_OKAY, own, first)
            self._streams[own] = _Shell(self, own, first, line)
        elif stream and command == _WRTE:
            stream.arrived.put(data)
        elif stream and command == _OKAY:
            stream.ready.release()
        elif stream and command == _CLSE:
            self._streams.pop(second, None)
            stream.hang_up()

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for stream in list(self._streams.values()):
            stream.hang_up()
        self._streams.clear()


class _Shell:
    """One command.  Each of its outputs waits until the one before was acknowledged, as the protocol wants."""

    def __init__(self, link: _Link, own: int, other: int, line: str) -> None:
        self._link, self._own, self._other = link, own, other
        self.ready, self.arrived = threading.Semaphore(1), queue.Queue[bytes]()
        self._lock = threading.Lock()
        device = link.device
        environment = {"PATH": f"{device.tools}:/usr/bin:/bin", "TMPDIR": str(device.folder), "HOME": "/"}
        if device.started_with:
            environment["BASH_ENV"] = str(device.started_with)
        pipe = subprocess.PIPE
        shell = ["env", "--default-signal=HUP", device.shell, "-c", line]  # a device knows nothing of a nohup on this machine
        self._process = subprocess.Popen(shell, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", env=environment)
        self._readers = [threading.Thread(target=self._pump, args=pair) for pair in ((_STDOUT, "stdout"), (_STDERR, "stderr"))]
        for thread in (*self._readers, threading.Thread(target=self._feed), threading.Thread(target=self._finish)):
            thread.daemon = True
            thread.start()

    def _say(self, kind: int, data: bytes) -> None:
        with self._lock:
            self.ready.acquire()
            self._link.send(_WRTE, self._own, self._other, struct.pack("<BI", kind, len(data)) + data)

    def _pump(self, kind: int, name: str) -> None:
        pipe = getattr(self._process, name)
        while data := os.read(pipe.fileno(), _CHUNK):
            self._say(kind, data)

    def _feed(self) -> None:
        """Standard input: packets may come in pieces, or several at once; acknowledged when the command has taken them."""
        buffer = b""
        stdin = self._process.stdin
        assert stdin is not None
        while data := self.arrived.get():
            buffer += data
            while len(buffer) >= 5 and len(buffer) >= 5 + (size := struct.unpack_from("<I", buffer, 1)[0]):
                kind, packet, buffer = buffer[0], buffer[5 : 5 + size], buffer[5 + size :]
                with suppress(OSError, ValueError):
                    if kind == _STDIN:
                        stdin.write(packet)
                        stdin.flush()
                    elif kind == _CLOSE_STDIN:
                        stdin.close()
            self._link.send(_OKAY, self._own, self._other)

    def _finish(self) -> None:
        for thread in self._readers:
            thread.join()
        code = self._process.wait()
        self._say(_EXIT, bytes([code if code >= 0 else 128 - code]))  # as AOSP: 0x80 | the signal
        self.ready.acquire()
        self._link.send(_CLSE, self._own, self._other)

    def hang_up(self) -> None:
        """The other end has gone."""
        self.arrived.put(b"")
        self.ready.release(1000)
        with suppress(OSError):
            self._process.send_signal(signal.SIGHUP)
        with suppress(OSError, AttributeError):
            self._process.stdin.close()
