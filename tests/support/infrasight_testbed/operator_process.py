"""Runs operators as processes, with the rights of a service account, in a namespace per test."""

import time
from pathlib import Path
from typing import Any

import yaml

from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import BIN, Process, until

API_VERSION = "infrasight.io/v1alpha1"
README = Path(__file__).parents[3] / "infrasight-operator" / "README.md"
_RBAC_GROUP = "rbac.authorization.k8s.io"


def documented_rules() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rules of the Role and the ClusterRole that the operator's README documents."""
    text = README.read_text(encoding="utf-8").partition("```yaml\n# Role")[2].partition("```")[0]
    role, _, cluster_role = text.partition("# ClusterRole")
    return yaml.safe_load(role.partition("\n")[2]), yaml.safe_load(cluster_role)


def until_idle(*operators: Process, quiet_seconds: float = 1.0) -> None:
    """Waits until operators have made no pass and no API call for a while."""
    names = ("infrasight_operator_reconciles_total", "infrasight_operator_api_calls_total")
    counters: list[float] = []
    changed_at = time.monotonic()

    def is_idle() -> bool:
        nonlocal counters, changed_at
        current = [operator.metric(name) for operator in operators for name in names]
        if current != counters:
            counters = current
            changed_at = time.monotonic()
        return time.monotonic() - changed_at >= quiet_seconds

    until(is_idle, f"the operators are idle; their counters are {counters}")


class OperatorInstallation:
    """A namespace with the operator's rights, and the operators that run in it.

    Attributes:
        namespace: The namespace.
        address: The address that agents connect to.

    Args:
        control_plane: The cluster.
        namespace: The namespace.
        folder: The folder for logs.
        pool: Nodes with this value of the label `pool` belong to the installation.
    """

    def __init__(
        self, control_plane: ControlPlane, namespace: str, folder: Path, pool: str
    ) -> None:
        self.cluster = control_plane
        self.namespace = namespace
        self._folder = folder
        self._pool = pool
        self.address = f"127.0.0.1:{free_port()}"
        self._status = f"127.0.0.1:{free_port()}"
        self._processes: list[Process] = []
        self._cluster_role = f"operator-{namespace}"
        self._create_account()
        self._kubeconfig = control_plane.account_kubeconfig("operator", namespace)

    def _create_account(self) -> None:
        role_rules, cluster_role_rules = documented_rules()
        subject = {"kind": "ServiceAccount", "name": "operator", "namespace": self.namespace}
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "operator"},
        }
        role = _rbac_object("Role", "operator", rules=role_rules)
        role_binding = _rbac_object(
            "RoleBinding",
            "operator",
            roleRef={"apiGroup": _RBAC_GROUP, "kind": "Role", "name": "operator"},
            subjects=[subject],
        )
        self.cluster.apply(account, role, role_binding, namespace=self.namespace)
        cluster_role = _rbac_object("ClusterRole", self._cluster_role, rules=cluster_role_rules)
        cluster_role_binding = _rbac_object(
            "ClusterRoleBinding",
            self._cluster_role,
            roleRef={"apiGroup": _RBAC_GROUP, "kind": "ClusterRole", "name": self._cluster_role},
            subjects=[subject],
        )
        self.cluster.apply(cluster_role, cluster_role_binding)

    def start(self, *options: str, ready: bool = True, launcher: tuple[str, ...] = ()) -> Process:
        """Starts an operator and, by default, waits until it has listed all objects.

        Args:
            options: Of the command.
            ready: Whether to wait.
            launcher: A command that executes the operator's.
        """
        return self._start(self.address, self._status, *options, ready=ready, launcher=launcher)

    def start_another(self) -> Process:
        """Starts a second operator that no agent connects to."""
        listen = f"127.0.0.1:{free_port()}"
        status = f"127.0.0.1:{free_port()}"
        return self._start(listen, status, "--address", self.address)

    def _start(
        self,
        listen: str,
        status: str,
        *options: str,
        ready: bool = True,
        launcher: tuple[str, ...] = (),
    ) -> Process:
        command: list[str | Path] = [*launcher, BIN / "infrasight-operator", "run"]
        command += ["--namespace", self.namespace]
        command += ["--listen", listen, "--status-listen", status, *options]
        log = self._folder / f"operator-{len(self._processes)}.log"
        process = Process(command, log, status, {"KUBECONFIG": str(self._kubeconfig)})
        self._processes.append(process)
        if ready:
            until(process.ready, f"the operator is ready\n{process.log()}")
        return process

    def use_token_file(self) -> Path:
        """Moves the token to a file, as in a pod, for operators that start later."""
        token = self._folder / "token"
        kubeconfig = yaml.safe_load(self._kubeconfig.read_text(encoding="utf-8"))
        user = kubeconfig["users"][0]["user"]
        token.write_text(user.pop("token"), encoding="utf-8")
        user["tokenFile"] = str(token)
        self._kubeconfig = self._folder / "kubeconfig"
        self._kubeconfig.write_text(yaml.safe_dump(kubeconfig), encoding="utf-8")
        return token

    def install(self, **spec: Any) -> None:
        """Applies the InfraSight object, for the nodes of the pool."""
        agent = {
            "image": "example.invalid/agent",
            "nodeSelector": {"pool": self._pool},
            **spec.pop("agent", {}),
        }
        server = {"address": "server:7443", "plaintext": True}
        self.apply("InfraSight", "infrasight", {"agent": agent, "server": server, **spec})

    def policy(self, name: str, *probes: str | dict[str, Any], **spec: Any) -> None:
        """Applies a policy."""
        entries = [{"name": probe} if isinstance(probe, str) else probe for probe in probes]
        self.apply("ProbePolicy", name, {"probes": entries, **spec})

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Applies an object."""
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.cluster.apply(body, namespace=self.namespace)

    def delete(self, kind: str, name: str) -> None:
        """Deletes an object."""
        self.cluster.kubectl("delete", kind, name, "-n", self.namespace)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Reads an object."""
        return self.cluster.get(kind, name, self.namespace)

    def node_probes(self) -> dict[str, dict[str, Any]]:
        """The NodeProbes objects, by node."""
        return {
            body["metadata"]["name"]: body
            for body in self.cluster.objects("nodeprobes", self.namespace)
        }

    def probes(self) -> dict[str, list[str]]:
        """The probes in each node's configuration."""
        return {
            name: [probe["name"] for probe in body["spec"].get("probes", [])]
            for name, body in self.node_probes().items()
        }

    def until_probes(self, **expected: list[str]) -> None:
        """Waits until exactly these nodes have configurations, with exactly these probes."""
        until(
            lambda: self.probes() == expected,
            f"the configurations have the probes {expected}; {self.logs()}",
            60,
        )

    def condition(self, kind: str, name: str, condition: str) -> dict[str, Any]:
        """A condition of an object's status; empty if there is none."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", ())
        return next((entry for entry in conditions if entry["type"] == condition), {})

    def until_condition(self, kind: str, name: str, condition: str, status: bool) -> None:
        """Waits until a condition of an object is true or false."""
        until(
            lambda: self.condition(kind, name, condition).get("status") == str(status),
            f"{kind} {name} has {condition}={status}",
        )

    def logs(self) -> str:
        """The end of the last operator's log."""
        return self._processes[-1].log()[-2000:] if self._processes else ""

    def stop(self) -> None:
        """Stops the operators and removes their cluster-wide rights."""
        for process in self._processes:
            process.stop()
        for kind in ("clusterrolebinding", "clusterrole"):
            self.cluster.kubectl("delete", kind, self._cluster_role, "--ignore-not-found")


def _rbac_object(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    version = f"{_RBAC_GROUP}/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}
