"""The operator, installed as a user installs it: by Helm, or by kubectl's kustomize."""

import json
from pathlib import Path
from typing import Any

from integration.system.backup import eventually
from testbed.realcluster import RealCluster

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "helm" / "vmbackup-operator"
MANIFESTS = REPOSITORY / "manifests" / "default"
RELEASE = "vmbackup-operator"
NAMESPACE, AGENTS = "vmbackup-system", "vmbackup-agents"
LOCATION = "/srv/vmbackup"
WAIT_SECONDS = 120
LAST_CHARACTERS = 12000
CRDS = tuple(
    f"{kind}.vmbackup.dev" for kind in ("vmbackups", "vmrestores", "vmbackupschedules", "vmbackuplocations", "vmhosts")
)


class Installation:
    """The operator in a cluster, looked at with kubectl and helm."""

    def __init__(self, cluster: RealCluster) -> None:
        self.cluster, self.plane = cluster, cluster.plane

    def helm_install(self, *settings: str, verb: str = "install") -> str:
        """Install (or upgrade) the release, wait as a user does with --wait, and return what helm said."""
        values = ["--set", f"agent.directories.locations={{{LOCATION}}}", *settings]
        place = [RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace"]
        return self.helm(verb, *place, *values, "--wait", f"--timeout={WAIT_SECONDS}s")

    def helm_uninstall(self) -> str:
        return self.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", f"--timeout={WAIT_SECONDS}s")

    def helm(self, *arguments: str) -> str:
        ended = self.plane.helm(*arguments)
        assert ended.returncode == 0, f"helm {' '.join(arguments)}:\n{ended.stdout}{ended.stderr}\n{self.last_words()}"
        return ended.stdout

    def apply_manifests(self) -> None:
        """Install by `kubectl apply -k` and wait until everything runs."""
        # The CRDs come with the objects that need them: the first try may be too early for some.
        self.plane.kubectl("apply", "--server-side", "-k", str(MANIFESTS))
        wait = f"--timeout={WAIT_SECONDS}s"
        self.plane.kubectl("wait", "--for=condition=Established", wait, *(f"crd/{name}" for name in CRDS))
        self.plane.kubectl("-n", NAMESPACE, "rollout", "status", "deployment", wait)
        self.plane.kubectl("-n", AGENTS, "rollout", "status", "daemonset", wait)

    def delete_manifests(self) -> None:
        self.plane.kubectl("delete", "--ignore-not-found", f"--timeout={WAIT_SECONDS}s", "-k", str(MANIFESTS))

    def make_location(self, name: str, namespace: str) -> None:
        """Make a namespace, and a location that it may write to, and wait until nodes can use it."""
        self.plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        spec = {"directory": {"path": LOCATION}, "allowedNamespaces": {"names": [namespace]}}
        head = {"apiVersion": "vmbackup.dev/v1alpha1", "kind": "VMBackupLocation", "metadata": {"name": name}}
        self.plane.apply(head | {"spec": spec})
        self.until_ready("vmbackuplocation", name)

    def until_ready(self, kind: str, name: str) -> None:
        eventually(lambda: self.is_ready(kind, name), f"{kind} {name} is Ready", WAIT_SECONDS)

    def is_ready(self, kind: str, name: str) -> bool:
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        return self.plane.kubectl("get", kind, name, "--ignore-not-found", "-o", f"jsonpath={path}") == "True"

    def pods(self, namespace: str, component: str, node: str | None = None) -> list[dict[str, Any]]:
        """Return the pods of "controller" or "agent" that are not on their way out."""
        label = f"app.kubernetes.io/component={component}"
        where = ["--field-selector", f"spec.nodeName={node}"] if node else []
        listed = self.plane.kubectl("-n", namespace, "get", "pods", "-l", label, *where, "-o", "json")
        return [pod for pod in json.loads(listed)["items"] if "deletionTimestamp" not in pod["metadata"]]

    def agent_pod(self, node: str) -> str:
        (pod,) = self.pods(AGENTS, "agent", node)
        return str(pod["metadata"]["name"])

    def kill_agent(self, node: str) -> str:
        """Take the agent's pod away without a warning and return its name; the DaemonSet makes the next."""
        name = self.agent_pod(node)
        self.plane.kubectl("-n", AGENTS, "delete", "pod", name, "--grace-period=0", "--force")
        return name

    def running_agent(self, node: str) -> str | None:
        """Return the name of the node's agent pod, None while there is none, more than one, or it is not ready."""
        pods = self.pods(AGENTS, "agent", node)
        if len(pods) != 1:
            return None
        # A pod that its kubelet has not looked at yet has no list of containers.
        containers = pods[0]["status"].get("containerStatuses", [])
        return str(pods[0]["metadata"]["name"]) if containers and all(each["ready"] for each in containers) else None

    def last_words(self) -> str:
        """Return what pods and events say, for a failed test's message."""
        said = [self.plane.kubectl("get", "pods,vmhosts", "-A", "-o", "wide")] if self._has_crds() else []
        for namespace in (NAMESPACE, AGENTS):
            for pod in self.plane.kubectl("-n", namespace, "get", "pods", "-o", "name").split():
                command = ["-n", namespace, "logs", pod, "--tail=30", "--ignore-errors"]
                said.append(f"{pod}:\n{self.plane.kubectl(*command)}")
        return "\n".join(said)[-LAST_CHARACTERS:]

    def _has_crds(self) -> bool:
        return "vmhosts.vmbackup.dev" in self.plane.kubectl("get", "crds", "-o", "name")
