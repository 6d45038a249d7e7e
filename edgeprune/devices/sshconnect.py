"""Opening an SSH connection: TCP, host key, user key."""

from __future__ import annotations

import base64
import hashlib
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paramiko

from edgeprune.devices.address import Address, parse_address
from edgeprune.devices.knownhosts import load_known_hosts
from edgeprune.devices.sshconfig import Endpoint, lookup
from edgeprune.errors import AuthenticationError, ConnectionLostError, DeviceError, HostKeyError, TargetError, UnreachableError

_SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
_DEAD_AFTER_MS = 20_000
_KEEPALIVE_S = 5
_MAX_JUMPS = 8


def fingerprint(key: Any) -> str:
    """A public key's SHA-256 fingerprint, as ``ssh-keygen -l`` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    def __init__(self, endpoint: Endpoint, revoked: frozenset[bytes]) -> None:
        self._endpoint, self._revoked = endpoint, revoked

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        where = self._endpoint
        if key.asbytes() in self._revoked:
            raise HostKeyError(
                f"the host key of {where.key_name} is revoked: {key.get_name()} {fingerprint(key)}",
                remedy="Give the device a new host key, and accept that one.",
            )
        file = shlex.quote(where.known_hosts[0]) if where.known_hosts else "~/.ssh/known_hosts"
        kind = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}.get(key.get_name(), "ecdsa")
        scan = f"ssh-keyscan -p {where.port} -t {kind} {shlex.quote(where.host)}"
        if where.key_alias:
            scan += f" | awk -v name={shlex.quote(where.key_alias)} '{{$1 = name}} 1'"
        accept = f"{scan} >> {file}"
        if where.jumps or where.command:
            accept = f"ssh {shlex.quote(where.alias)} (and answer yes)"
        raise HostKeyError(
            f"the host key of {where.key_name} is unknown: {key.get_name()} {fingerprint(key)}",
            remedy=f"Compare it with the device's own: ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub. If equal, accept it: {accept}",
        )


def _tcp(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    """A connection that notices a dead peer, and without Nagle's algorithm, which paramiko leaves on: uploads are far slower with it."""
    try:
        sock = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise UnreachableError(
            f"{endpoint.alias} cannot be reached at {endpoint.host} port {endpoint.port}: {reason}",
            remedy="Is it switched on, in this network, and running an SSH server on that port?",
        ) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
    return sock


@contextmanager
def _errors(endpoint: Endpoint) -> Iterator[None]:
    where = f"{endpoint.user}@{endpoint.key_name}"
    try:
        yield
    except paramiko.BadHostKeyException as error:
        files = " ".join(f"-f {shlex.quote(file)}" for file in endpoint.known_hosts[:1])
        raise HostKeyError(
            f"the host key of {endpoint.key_name} has changed: known {fingerprint(error.expected_key)}, now {fingerprint(error.key)}",
            remedy="Another machine may be answering in its place.  If the device was reinstalled, remove the old key: "
            f"ssh-keygen {files} -R {shlex.quote(endpoint.key_name)}",
        ) from error
    except paramiko.PasswordRequiredException as error:
        raise AuthenticationError(f"a key for {where} is encrypted", remedy="Add it to the agent: ssh-add.") from error
    except paramiko.AuthenticationException as error:
        tried = ", ".join(endpoint.identities) or "the agent's and ~/.ssh's keys"
        raise AuthenticationError(
            f"{where} refused every key (tried: {tried})",
            remedy=f"Give it your public key once: ssh-copy-id -p {endpoint.port} {shlex.quote(f'{endpoint.user}@{endpoint.host}')}",
        ) from error
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise DeviceError(
            f"{where} and this machine share no SSH algorithm: {error}",
            remedy="The device's SSH server is too old: update it (SHA-1 and DSA are no longer accepted).",
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise UnreachableError(f"{where} ended the connection while it was opened: {str(error) or type(error).__name__}") from error


def _transport(sock: Any, **options: Any) -> Any:
    """A transport that prefers ciphers which authenticate too: without a second pass for that, uploads are a third faster."""
    transport = paramiko.Transport(sock, **options)
    security = transport.get_security_options()
    security.ciphers = sorted(security.ciphers, key=lambda name: "gcm" not in name)
    return transport


def _client(endpoint: Endpoint, sock: Any, timeout_s: float) -> Any:
    client = paramiko.SSHClient()
    revoked = load_known_hosts((_SYSTEM_KNOWN_HOSTS, *endpoint.known_hosts), client.get_host_keys())
    client.set_missing_host_key_policy(_RefuseUnknown(endpoint, revoked))
    limits = {"timeout": timeout_s, "banner_timeout": timeout_s, "auth_timeout": timeout_s, "channel_timeout": timeout_s}
    try:
        with _errors(endpoint):
            client.connect(
                endpoint.key_alias or endpoint.host,  # the connection is made: this only names the key
                22 if endpoint.key_alias else endpoint.port,
                endpoint.user,
                sock=sock,
                key_filename=list(endpoint.identities),
                allow_agent=not endpoint.only_identities,
                look_for_keys=not endpoint.only_identities,
                transport_factory=_transport,
                **limits,
            )
    except BaseException:
        client.close()
        raise
    client.get_transport().set_keepalive(_KEEPALIVE_S)
    return client


def open_clients(address: Address, timeout_s: float) -> list[Any]:
    """Connect to a host, through the hosts it is behind: one client for each, the wanted one last.

    Raises :class:`UnreachableError`, :class:`HostKeyError`, :class:`AuthenticationError`, :class:`TargetError`.
    """
    endpoint = lookup(address)
    hops = [lookup(parse_address(f"ssh://{hop}")) for hop in endpoint.jumps]
    if len(hops) > _MAX_JUMPS:
        raise TargetError(f"{endpoint.alias} is behind more than {_MAX_JUMPS} hosts")
    clients: list[Any] = []
    try:
        for hop in [*hops, endpoint]:
            if clients:
                sock = _through(clients[-1], hop, timeout_s)
            elif hop.command:
                sock = paramiko.ProxyCommand(hop.command)
            else:
                sock = _tcp(hop, timeout_s)
            clients.append(_client(hop, sock, timeout_s))
    except BaseException:
        close_clients(clients)
        raise
    return clients


def _through(client: Any, hop: Endpoint, timeout_s: float) -> Any:
    try:
        return client.get_transport().open_channel("direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=timeout_s)
    except (paramiko.SSHException, EOFError, OSError, AttributeError) as error:
        raise UnreachableError(f"{hop.alias} cannot be reached through its jump host at {hop.host} port {hop.port}: {error}") from error


def close_clients(clients: list[Any]) -> None:
    """Close connections, the innermost first."""
    for client in reversed(clients):
        client.close()


def lost(address: str, error: BaseException | None = None) -> ConnectionLostError:
    """The error for a connection that broke in use."""
    detail = f": {error}" if error is not None and str(error) else ""
    return ConnectionLostError(
        f"the connection to {address} was lost{detail}", remedy="Check the device's power and network, then run it again."
    )
