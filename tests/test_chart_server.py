"""A real server runs with the settings and certificates that the chart renders."""

import base64
import datetime
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from infrasight_testbed.chart import find_manifest, literal_environment, render, write_secret_files
from infrasight_testbed.chart_values import EMBEDDED, LIMITS, REVOCATION, merged
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import BIN, Process, until


def query(address: str, certificates: Path | None) -> subprocess.CompletedProcess[str]:
    """Runs the query of `helm test`, with a folder of tls.crt, tls.key and ca.crt."""
    environ = {**os.environ, "INFRASIGHT_SERVER": address}
    if certificates is not None:
        files = {"CERTIFICATE": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}
        environ |= {
            f"INFRASIGHT_TLS_{name}": str(certificates / file) for name, file in files.items()
        }
    command: list[str | Path] = [BIN / "infrasight", "query", "SELECT 1 AS ready"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def manifests(cluster_tools: Path) -> list[dict[str, Any]]:
    """The chart with the embedded store, limits and revocation lists."""
    return render(cluster_tools, merged(EMBEDDED, LIMITS, REVOCATION))


def write_revocation_list(manifests: list[dict[str, Any]], file: Path, *revoked: Path) -> None:
    """Writes a list of the chart's CA with these certificates, beside the file and renamed."""
    secret = find_manifest(manifests, "Secret", "infrasight-ca")["data"]
    issuer = x509.load_pem_x509_certificate(base64.b64decode(secret["tls.crt"])).subject
    key = serialization.load_pem_private_key(base64.b64decode(secret["tls.key"]), None)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder(issuer, now, now + datetime.timedelta(days=1))
    for path in revoked:
        serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
        entry = x509.RevokedCertificateBuilder(serial, now).build()
        builder = builder.add_revoked_certificate(entry)
    revocations = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    new = file.with_suffix(".new")
    new.write_bytes(revocations.public_bytes(serialization.Encoding.PEM))
    new.rename(file)


@pytest.fixture
def crl(manifests: list[dict[str, Any]], tmp_path: Path) -> Path:
    """The server's revocation list, which is empty."""
    file = tmp_path / "crl.pem"
    write_revocation_list(manifests, file)
    return file


@pytest.fixture
def server(manifests: list[dict[str, Any]], crl: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server with the Deployment's variables, except for ports and folders."""
    deployment = find_manifest(manifests, "Deployment", "infrasight-server")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    tls = write_secret_files(
        find_manifest(manifests, "Secret", "infrasight-server-tls"), tmp_path / "server"
    )
    variables = {
        key: value.replace("/etc/infrasight/tls", str(tls))
        for key, value in literal_environment(container).items()
    }
    address = f"localhost:{free_port()}"
    status = f"localhost:{free_port()}"
    variables["INFRASIGHT_SERVER_LISTEN"] = address
    variables["INFRASIGHT_SERVER_STATUS_LISTEN"] = status
    variables["INFRASIGHT_SERVER_DATA"] = str(tmp_path / "data")
    assert variables["INFRASIGHT_SERVER_TLS__CRL"] == "/etc/infrasight/crl/crl.pem"
    variables["INFRASIGHT_SERVER_TLS__CRL"] = str(crl)
    process = Process([BIN / "infrasight-server"], tmp_path / "server.log", status, variables)
    until(process.ready, f"the server is ready\n{process.log()}")
    yield address
    assert process.stop() == 0, process.log()


def test_queries_need_the_client_certificate_of_this_installation(
    cluster_tools: Path, manifests: list[dict[str, Any]], server: str, tmp_path: Path
) -> None:
    """Only the client certificate may query, not those of agents and servers; no other CA's."""
    folders = {
        role: write_secret_files(
            find_manifest(manifests, "Secret", f"infrasight-{role}-tls"), tmp_path / role
        )
        for role in ("client", "agent", "server", "operator")
    }
    done = query(server, folders["client"])
    assert (done.returncode, done.stdout) == (0, '{"ready":1}\n'), done.stderr
    for role, name in (("agent", "agents/infrasight"), ("server",) * 2, ("operator",) * 2):
        done = query(server, folders[role])
        assert done.returncode == 1
        assert f"{name} needs the role reader" in done.stderr
    other_installation = render(cluster_tools, EMBEDDED)
    secret = find_manifest(other_installation, "Secret", "infrasight-client-tls")
    other = write_secret_files(secret, tmp_path / "other")
    assert query(server, other).returncode != 0
    # Now this client trusts the server, but the server does not trust this client.
    (other / "ca.crt").write_bytes((tmp_path / "client" / "ca.crt").read_bytes())
    assert query(server, other).returncode != 0


def test_revoked_certificate_cannot_query(
    manifests: list[dict[str, Any]], server: str, crl: Path, tmp_path: Path
) -> None:
    """A certificate works until the mounted list names it; the server is not restarted."""
    secret = find_manifest(manifests, "Secret", "infrasight-client-tls")
    client = write_secret_files(secret, tmp_path / "client")
    assert query(server, client).returncode == 0
    write_revocation_list(manifests, crl, client / "tls.crt")
    done = query(server, client)
    assert done.returncode == 1
    assert "is revoked" in done.stderr
