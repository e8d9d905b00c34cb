"""A certificate authority of our own, and a server certificate for 127.0.0.1."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from greenfly.demo.servers import TlsPair


def make_tls_pair(folder: Path) -> TlsPair:
    """Write ``ca.pem``, ``server.pem`` and ``server.key`` into *folder*; valid for a day."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _name("Greenfly test authority")
    begin, end = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(days=1)
    basis = x509.CertificateBuilder().issuer_name(authority).not_valid_before(begin).not_valid_after(end)
    ca = (
        basis.subject_name(authority)
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    server = (
        basis.subject_name(_name("127.0.0.1"))
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    pair = TlsPair(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    pair.ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    pair.cert_file.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    pair.key_file.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pair


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
