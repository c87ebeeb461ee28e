"""The processes of a control plane: their command lines, start and end."""

import enum
import subprocess
from pathlib import Path

from infrasight_testbed import kubeconfig
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.clickhouse import free_port

_LOG_BYTES = 1500


class Part(enum.Enum):
    """A part by its program's name, servers before their clients."""

    ETCD = "etcd"
    API_SERVER = "kube-apiserver"
    CONTROLLERS = "kube-controller-manager"
    SCHEDULER = "kube-scheduler"
    KWOK = "kwok"


class Parts:
    """All of them, on free ports of the loopback.

    Attributes:
        url: Of the API server.
        admin: The kubeconfig of who may do everything.

    Args:
        tools: The folder of the programs.
        folder: For data, logs and credentials.
        authority: Who signs the certificates.
    """

    def __init__(self, tools: Path, folder: Path, authority: CertificateAuthority) -> None:
        self._tools = tools
        self._folder = folder
        self._authority = authority
        self._ports = {part: free_port() for part in Part}
        self.url = f"https://127.0.0.1:{self._ports[Part.API_SERVER]}"
        self.admin = self._client("admin", "system:masters")
        self._signing_key = folder / "pki" / "accounts.key"
        subprocess.run(
            ["openssl", "genrsa", "-out", self._signing_key, "2048"],
            check=True,
            capture_output=True,
        )
        self._commands = {
            Part.ETCD: self._etcd(),
            Part.API_SERVER: self._api_server(),
            Part.CONTROLLERS: self._controllers(),
            Part.SCHEDULER: self._scheduler(),
            Part.KWOK: self._kwok(),
        }
        self._running: dict[Part, subprocess.Popen[bytes]] = {}

    def _client(self, name: str, group: str = "") -> Path:
        return kubeconfig.with_certificate(
            self._folder / f"{name.rpartition(':')[2]}.kubeconfig",
            self.url,
            self._authority.issue(name, group),
        )

    def _etcd(self) -> list[str]:
        client, peer = (
            f"http://127.0.0.1:{port}" for port in (self._ports[Part.ETCD], free_port())
        )
        return [
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # the data are thrown away
        ]

    def _api_server(self) -> list[str]:
        serving = self._authority.issue("kube-apiserver")
        return [
            f"--etcd-servers=http://127.0.0.1:{self._ports[Part.ETCD]}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # a loopback address is refused as the endpoint of the service `kubernetes`
            f"--secure-port={self._ports[Part.API_SERVER]}",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={serving.ca}",
            f"--service-account-key-file={self._signing_key}",
            f"--service-account-signing-key-file={self._signing_key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            f"--cert-dir={self._folder / 'certs'}",
        ]

    def _controllers(self) -> list[str]:
        return [
            f"--kubeconfig={self._client('system:kube-controller-manager')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports[Part.CONTROLLERS]}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--kube-api-qps=500",  # its controllers start in 1 s instead of 6
            "--kube-api-burst=1000",
            f"--service-account-private-key-file={self._signing_key}",
            f"--root-ca-file={self._folder / 'pki' / 'ca.pem'}",
            f"--cert-dir={self._folder / 'certs'}",
        ]

    def _scheduler(self) -> list[str]:
        return [
            f"--kubeconfig={self._client('system:kube-scheduler')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports[Part.SCHEDULER]}",
            "--leader-elect=false",
            f"--cert-dir={self._folder / 'certs'}",
        ]

    def _kwok(self) -> list[str]:
        return [
            f"--kubeconfig={self.admin}",
            f"--config={self._tools / 'kwok-stages.yaml'}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",  # nodes whose lease nobody renews are NotReady after 50 s
            f"--server-address=127.0.0.1:{self._ports[Part.KWOK]}",
        ]

    def start(self, part: Part) -> None:
        """Starts a part, which does not outlive the tests."""
        command: list[str | Path] = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            self._tools / part.value,
            *self._commands[part],
        ]
        with self._log(part).open("ab") as log:
            self._running[part] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )

    def kill(self, part: Part) -> None:
        """SIGKILL; does nothing where it does not run."""
        if process := self._running.pop(part, None):
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Kills them all, clients before servers."""
        for part in reversed(Part):
            self.kill(part)

    def fail_if_ended(self) -> None:
        """A part that ended by itself fails the test, with its last words."""
        for part, process in self._running.items():
            assert process.poll() is None, (
                f"{part.value} ended with status {process.returncode}:\n{self._last(part)}"
            )

    def logs(self) -> str:
        """The last words of each part."""
        return "\n".join(f"{part.value}:\n{self._last(part)}" for part in Part)

    def _log(self, part: Part) -> Path:
        return self._folder / f"{part.value}.log"

    def _last(self, part: Part) -> str:
        return (
            self._log(part).read_text(errors="replace")[-_LOG_BYTES:]
            if self._log(part).exists()
            else ""
        )
