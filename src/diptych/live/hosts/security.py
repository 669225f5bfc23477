"""Who may join: the fleet's token, and TLS by certificates of the fleet's own authority."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from pathlib import Path

__all__ = [
    "HostsError",
    "client_context",
    "is_loopback",
    "read_token",
    "server_context",
    "split_address",
    "tune",
]

TOKEN_BYTES_MIN = 16
USER_TIMEOUT_MS = 2000
"""Sent bytes that stay unacknowledged for so long end a connection."""


class HostsError(ValueError):
    """What a person gave for joining hosts cannot be used; the text names the field."""


def read_token(path: Path) -> bytes:
    """The shared secret, without white space around it. Raises `HostsError`."""
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise HostsError(f"token-file: {error}") from error
    if len(token) < TOKEN_BYTES_MIN:
        raise HostsError(f"token-file: {len(token)} bytes; at least {TOKEN_BYTES_MIN} are needed")
    return token


def server_context(folder: Path, host: str) -> ssl.SSLContext:
    """For who listens: both sides show a certificate of the fleet's authority. Raises `HostsError`."""
    return _context(ssl.PROTOCOL_TLS_SERVER, folder, host)


def client_context(folder: Path, host: str) -> ssl.SSLContext:
    return _context(ssl.PROTOCOL_TLS_CLIENT, folder, host)


def _context(protocol: int, folder: Path, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Names are those of the fleet's hosts, not of machines: who has a certificate of its authority is in.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(folder / "ca.pem")
        context.load_cert_chain(folder / f"{host}.pem", folder / f"{host}.key")
    except (OSError, ssl.SSLError) as error:
        raise HostsError(
            f"certs: {folder} has no usable ca.pem, {host}.pem and {host}.key ({error})"
        ) from error
    return context


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def split_address(option: str, text: str) -> tuple[str, int]:
    """`HOST:PORT`, or `[ADDRESS]:PORT`. Raises `HostsError`."""
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not colon or not address or not port.isdecimal() or int(port) > 65535:
        raise HostsError(f"{option}: {text!r} is not HOST:PORT with a port of 0 to 65535")
    return address, int(port)


def tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
