"""A fleet's own certificates: who has one of its authority is let in over TLS, and nobody else."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from diptych.live.hosts.security import (
    HostsError,
    client_context,
    is_loopback,
    read_token,
    server_context,
    split_address,
)

certificates = pytest.importorskip("diptych.live.hosts.certificates", reason="needs cryptography")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certs")
    certificates.make_certificates(path, ["host-0", "east"], 30)
    return path


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    """Whether both ends accept each other and a byte passes."""
    ours, theirs = socket.socketpair()
    got: list[bytes] = []

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as end:
                got.append(end.recv(1))
                end.sendall(b"y")
        except (OSError, ssl.SSLError):
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs) as end:
            end.sendall(b"x")
            return end.recv(1) == b"y"
    except (OSError, ssl.SSLError):
        return False
    finally:
        theirs.close()
        thread.join()


def test_hosts_of_one_fleet_meet_over_tls(folder: Path) -> None:
    assert shake(server_context(folder, "host-0"), client_context(folder, "east"))


def test_a_certificate_of_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    certificates.make_certificates(tmp_path, ["east"], 30)
    assert not shake(server_context(folder, "host-0"), client_context(tmp_path, "east"))


def test_keys_are_for_their_owner_only_and_the_authority_stays(folder: Path) -> None:
    assert stat.S_IMODE((folder / "east.key").stat().st_mode) == 0o600
    authority = (folder / "ca.pem").read_bytes()
    certificates.make_certificates(folder, ["west"], 30)
    assert (folder / "ca.pem").read_bytes() == authority
    assert shake(server_context(folder, "host-0"), client_context(folder, "west"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match=r"ca\.pem"):
        server_context(tmp_path, "host-0")
    with pytest.raises(HostsError, match="token-file"):
        read_token(tmp_path / "none")
    short = tmp_path / "short"
    short.write_text("short\n")
    with pytest.raises(HostsError, match="at least 16"):
        read_token(short)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:7000", ("::1", 7000)),
        ("east.example:1", ("east.example", 1)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert split_address("--join", text) == address


@pytest.mark.parametrize("text", ["", "127.0.0.1", ":80", "a:b", "a:70000"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(HostsError, match="--join"):
        split_address("--join", text)


def test_the_loopback_is_known() -> None:
    assert is_loopback("127.0.0.2")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("east.example")
