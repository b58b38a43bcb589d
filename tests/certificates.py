"""A private authority, and certificates that it signs for servers on this machine."""

import subprocess
from pathlib import Path

_CERTIFICATES = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


def certify(folder: Path) -> Path:
    """Make ``server.key`` and ``server.pem`` in a folder, signed by an authority; returns that one's certificate."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["/usr/bin/env", "openssl", *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "openssl.cnf").write_text(_CERTIFICATES, encoding="utf-8")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", "openssl.cnf")
    files = ("-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-x509", *new, *files, "-days", "2", "-subj", "/CN=tests", "-extensions", "authority")
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    extended = ("-extfile", "openssl.cnf", "-extensions", "server")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "1", "-days", "2")
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.pem", *signed, *extended)
    return folder / "ca.pem"
