"""A fleet's own certificate authority (RFC 5280), by the package cryptography."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["make_certificates"]

AUTHORITY = "ca"


def make_certificates(folder: Path, hosts: Sequence[str], days: int) -> list[Path]:
    """Writes `ca.pem` and `ca.key` where there are none yet, and `HOST.pem` and `HOST.key` for each host.

    Keys are readable by their owner only. Returns what was written. Raises `OSError`, and `ValueError`
    where the authority in the folder is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    pem, key_path = folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}.key"
    if not pem.exists():
        authority_key = ec.generate_private_key(ec.SECP256R1())
        authority = _certificate("diptych fleet", authority_key, None, None, days)
        written += _write(pem, key_path, authority, authority_key)
    authority = x509.load_pem_x509_certificate(pem.read_bytes())
    loaded = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{key_path} is no key of this authority")
    for host in hosts:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(host, key, authority, loaded, days)
        written += _write(folder / f"{host}.pem", folder / f"{host}.key", certificate, key)
    return written


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    authority_key: ec.EllipticCurvePrivateKey | None,
    days: int,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
    )
    if authority is not None:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(authority_key or key, hashes.SHA256())


def _write(
    pem: Path, key_path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> list[Path]:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private)
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return [pem, key_path]
