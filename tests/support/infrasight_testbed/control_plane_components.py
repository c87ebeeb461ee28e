"""The processes of a control plane: command lines, start and stop."""

import enum
import subprocess
from pathlib import Path

from infrasight_testbed import kubeconfig
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.ports import free_port

_LOG_CHARACTERS = 1500


class Component(enum.Enum):
    """A component, by the name of its program; servers precede their clients."""

    ETCD = "etcd"
    API_SERVER = "kube-apiserver"
    CONTROLLERS = "kube-controller-manager"
    SCHEDULER = "kube-scheduler"
    KWOK = "kwok"


class Components:
    """All components of a control plane, on free ports of the loopback.

    Attributes:
        url: The URL of the API server.
        admin: The administrator's kubeconfig.

    Args:
        tools: The folder of the programs.
        folder: The folder for data, logs and credentials.
        authority: The CA of all certificates.
    """

    def __init__(self, tools: Path, folder: Path, authority: CertificateAuthority) -> None:
        self._tools = tools
        self._folder = folder
        self._authority = authority
        self._ports = {component: free_port() for component in Component}
        self.url = f"https://127.0.0.1:{self._ports[Component.API_SERVER]}"
        self.admin = self._client("admin", "system:masters")
        self._signing_key = folder / "pki" / "accounts.key"
        subprocess.run(
            ["openssl", "genrsa", "-out", self._signing_key, "2048"],
            check=True,
            capture_output=True,
        )
        self._commands = {
            Component.ETCD: self._etcd(),
            Component.API_SERVER: self._api_server(),
            Component.CONTROLLERS: self._controllers(),
            Component.SCHEDULER: self._scheduler(),
            Component.KWOK: self._kwok(),
        }
        self._running: dict[Component, subprocess.Popen[bytes]] = {}

    def _client(self, name: str, group: str = "") -> Path:
        return kubeconfig.with_certificate(
            self._folder / f"{name.rpartition(':')[2]}.kubeconfig",
            self.url,
            self._authority.issue(name, group),
        )

    def _etcd(self) -> list[str]:
        client = f"http://127.0.0.1:{self._ports[Component.ETCD]}"
        peer = f"http://127.0.0.1:{free_port()}"
        return [
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # the data are temporary
        ]

    def _api_server(self) -> list[str]:
        serving = self._authority.issue("kube-apiserver")
        return [
            f"--etcd-servers=http://127.0.0.1:{self._ports[Component.ETCD]}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            # The service `kubernetes` rejects a loopback address as its endpoint.
            "--endpoint-reconciler-type=none",
            f"--secure-port={self._ports[Component.API_SERVER]}",
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
            f"--secure-port={self._ports[Component.CONTROLLERS]}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            # The controllers start in 1 s instead of 6 s.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            f"--service-account-private-key-file={self._signing_key}",
            f"--root-ca-file={self._folder / 'pki' / 'ca.pem'}",
            f"--cert-dir={self._folder / 'certs'}",
        ]

    def _scheduler(self) -> list[str]:
        return [
            f"--kubeconfig={self._client('system:kube-scheduler')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports[Component.SCHEDULER]}",
            "--leader-elect=false",
            f"--cert-dir={self._folder / 'certs'}",
        ]

    def _kwok(self) -> list[str]:
        return [
            f"--kubeconfig={self.admin}",
            f"--config={self._tools / 'kwok-stages.yaml'}",
            "--manage-all-nodes=true",
            # Without renewed leases, nodes become NotReady after 50 s.
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{self._ports[Component.KWOK]}",
        ]

    def start(self, component: Component) -> None:
        """Starts a component that ends with the tests."""
        command: list[str | Path] = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            self._tools / component.value,
            *self._commands[component],
        ]
        with self._log(component).open("ab") as log:
            self._running[component] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )

    def kill(self, component: Component) -> None:
        """Kills a component with SIGKILL, if it runs."""
        process = self._running.pop(component, None)
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Kills all components, clients before servers."""
        for component in reversed(Component):
            self.kill(component)

    def fail_if_ended(self) -> None:
        """Fails the test if a component has ended, and shows the end of its log."""
        for component, process in self._running.items():
            status = process.poll()
            assert status is None, (
                f"{component.value} ended with status {status}:\n{self._log_end(component)}"
            )

    def logs(self) -> str:
        """The end of each component's log."""
        return "\n".join(
            f"{component.value}:\n{self._log_end(component)}" for component in Component
        )

    def _log(self, component: Component) -> Path:
        return self._folder / f"{component.value}.log"

    def _log_end(self, component: Component) -> str:
        log = self._log(component)
        return log.read_text(errors="replace")[-_LOG_CHARACTERS:] if log.exists() else ""
