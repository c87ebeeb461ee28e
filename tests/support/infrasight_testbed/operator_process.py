"""The operator as a process, with the rights of a service account, in a namespace of the test's own."""

from pathlib import Path
from typing import Any

import yaml

from infrasight_testbed.clickhouse import free_port
from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.system import BIN, Process, until

API_VERSION = "infrasight.io/v1alpha1"
README = Path(__file__).parents[3] / "infrasight-operator" / "README.md"


def documented_rules() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rules that the operator's README says are all that it needs: of the Role, and of the ClusterRole."""
    text = README.read_text(encoding="utf-8").partition("```yaml\n# Role")[2].partition("```")[0]
    role, _, cluster_role = text.partition("# ClusterRole")
    return yaml.safe_load(role.partition("\n")[2]), yaml.safe_load(cluster_role)


class Installed:
    """An operator's place in a cluster.

    Attributes:
        namespace: Its namespace.
        address: Where it listens for agents.

    Args:
        control_plane: The cluster.
        namespace: The namespace.
        folder: For logs.
        pool: Nodes with this value of the label `pool` are the installation's.
    """

    def __init__(
        self, control_plane: ControlPlane, namespace: str, folder: Path, pool: str
    ) -> None:
        self.cluster, self.namespace, self._folder, self._pool = (
            control_plane,
            namespace,
            folder,
            pool,
        )
        self.address = f"127.0.0.1:{free_port()}"
        self._status = f"127.0.0.1:{free_port()}"
        self._processes: list[Process] = []
        role, cluster_role = documented_rules()
        rights = "rbac.authorization.k8s.io"
        account = [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}]
        self._cluster_wide = f"operator-{namespace}"
        control_plane.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}},
            {
                "apiVersion": f"{rights}/v1",
                "kind": "Role",
                "metadata": {"name": "operator"},
                "rules": role,
            },
            {
                "apiVersion": f"{rights}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "operator"},
                "roleRef": {"apiGroup": rights, "kind": "Role", "name": "operator"},
                "subjects": account,
            },
            namespace=namespace,
        )
        control_plane.apply(
            {
                "apiVersion": f"{rights}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": self._cluster_wide},
                "rules": cluster_role,
            },
            {
                "apiVersion": f"{rights}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": self._cluster_wide},
                "roleRef": {"apiGroup": rights, "kind": "ClusterRole", "name": self._cluster_wide},
                "subjects": account,
            },
        )
        self._kubeconfig = control_plane.account("operator", namespace)

    def start(self, *options: str, ready: bool = True) -> Process:
        """Starts an operator and waits until it has listed everything."""
        return self._start(self.address, self._status, *options, ready=ready)

    def start_another(self) -> Process:
        """Starts one beside the first, which agents do not know."""
        return self._start(
            f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", "--address", self.address
        )

    def _start(self, listen: str, status: str, *options: str, ready: bool = True) -> Process:
        command: list[str | Path] = [
            BIN / "infrasight-operator",
            "run",
            "--namespace",
            self.namespace,
            "--listen",
            listen,
        ]
        command += ["--status-listen", status, *options]
        log = self._folder / f"operator-{len(self._processes)}.log"
        process = Process(command, log, status, {"KUBECONFIG": str(self._kubeconfig)})
        self._processes.append(process)
        if ready:
            until(process.ready, f"the operator is ready\n{process.log()}")
        return process

    def token_in_a_file(self) -> Path:
        """Has the token lie in a file, as in a pod, for operators that are started later."""
        token, config = (
            self._folder / "token",
            yaml.safe_load(self._kubeconfig.read_text(encoding="utf-8")),
        )
        token.write_text(config["users"][0]["user"].pop("token"), encoding="utf-8")
        config["users"][0]["user"]["tokenFile"] = str(token)
        self._kubeconfig = self._folder / "kubeconfig"
        self._kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")
        return token

    def install(self, **spec: Any) -> None:
        """Makes the InfraSight object, of the test's own nodes."""
        agent = {
            "image": "example.invalid/agent",
            "nodeSelector": {"pool": self._pool},
            **spec.pop("agent", {}),
        }
        whole = {"agent": agent, "server": {"address": "server:7443", "plaintext": True}, **spec}
        self.apply("InfraSight", "infrasight", whole)

    def policy(self, name: str, *probes: str | dict[str, Any], **spec: Any) -> None:
        """Makes a policy of probes be so."""
        named = [{"name": probe} if isinstance(probe, str) else probe for probe in probes]
        self.apply("ProbePolicy", name, {"probes": named, **spec})

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Makes an object be so."""
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.cluster.apply(body, namespace=self.namespace)

    def delete(self, kind: str, name: str) -> None:
        """Deletes an object."""
        self.cluster.kubectl("delete", kind, name, "-n", self.namespace)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object as it stands."""
        return self.cluster.get(kind, name, self.namespace)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The NodeProbes, by node."""
        return {
            body["metadata"]["name"]: body
            for body in self.cluster.objects("nodeprobes", self.namespace)
        }

    def probes(self) -> dict[str, list[str]]:
        """Which probes each node is to run."""
        return {
            name: [probe["name"] for probe in body["spec"].get("probes", [])]
            for name, body in self.nodes().items()
        }

    def until_probes(self, **wanted: list[str]) -> None:
        """Waits until the nodes are to run these probes, and there are no others."""
        until(lambda: self.probes() == wanted, f"nodes are to run {wanted}; {self.logs()}", 60)

    def condition(self, kind: str, name: str, which: str) -> dict[str, Any]:
        """A condition of an object's status; empty while there is none."""
        found = self.get(kind, name).get("status", {}).get("conditions", ())
        return next((c for c in found if c["type"] == which), {})

    def logs(self) -> str:
        """The operators' last words."""
        return self._processes[-1].log()[-2000:] if self._processes else ""

    def stop(self) -> None:
        """Ends what runs, and takes back the rights."""
        for process in self._processes:
            process.stop()
        for kind in ("clusterrolebinding", "clusterrole"):
            self.cluster.kubectl("delete", kind, self._cluster_wide, "--ignore-not-found")
