"""Certificates for tests of mutual TLS, made with openssl."""

import subprocess
from pathlib import Path

from infrasight_core.net.tls import TlsFiles


class CertificateAuthority:
    """A CA of a test's own.

    Args:
        folder: Where its files go.
        name: Its common name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl(
            "req",
            "-x509",
            *self._new_key("ca"),
            "-subj",
            f"/CN={name}",
            "-days",
            "2",
            "-out",
            folder / "ca.pem",
        )

    def issue(self, subject: str, organization: str = "") -> TlsFiles:
        """A certificate for localhost and its key; Kubernetes' group is the organization."""
        request = self._folder / f"{subject}.csr"
        certificate = self._folder / f"{subject}.pem"
        name = f"/O={organization}/CN={subject}" if organization else f"/CN={subject}"
        self._openssl("req", *self._new_key(subject), "-subj", name, "-out", request)
        names = self._folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        ca = ("-CA", self._folder / "ca.pem", "-CAkey", self._folder / "ca.key", "-CAcreateserial")
        self._openssl(
            "x509",
            "-req",
            "-in",
            request,
            *ca,
            "-days",
            "2",
            "-extfile",
            names,
            "-out",
            certificate,
        )
        return TlsFiles(certificate, self._folder / f"{subject}.key", self._folder / "ca.pem")

    def _new_key(self, subject: str) -> tuple[str | Path, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        return (*curve, "-keyout", self._folder / f"{subject}.key")

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
