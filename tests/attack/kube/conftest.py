"""A real API server with the roles and the policy of the chart, and agents with the tokens of their pods."""

import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.controlplane import ControlPlane
from testbed.tools import tool
from vmbackup.api import names
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import Denied
from vmbackup.cluster.resources import VMBACKUP, VMHOST, Resources

ROOT = Path(__file__).resolve().parents[3]
RELEASE = "vmbackup-operator"
SYSTEM = "vmbackup-system"
ACCOUNTS = {"agent": ("vmbackup-agents", f"{RELEASE}-agent"), "controller": (SYSTEM, f"{RELEASE}-controller")}
WORKLOADS = ("Deployment", "DaemonSet")  # nothing here could run them
PATIENCE_SECONDS = 60
Body = dict[str, Any]


def until(test: Callable[[], object], what: str) -> None:
    """Poll: the API server takes up new roles and policies a moment after they are written."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not test():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.1)


def rendered() -> list[Body]:
    """Return what `helm install` would make, with every switch on that adds a right."""
    chart, switches = str(ROOT / "helm" / RELEASE), ["--set=kubevirt.enabled=true"]
    command = [str(tool("helm")), "template", RELEASE, chart, f"--namespace={SYSTEM}", *switches]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [body for body in yaml.safe_load_all(text) if body]


def user(account: str) -> str:
    return "system:serviceaccount:" + ":".join(ACCOUNTS[account])


class Cluster:
    """The control plane as the administrator has set it up."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.admin = Client(plane.kubeconfig, field_manager="administrator")
        plane.apply(ROOT / "crds")
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        chart = [body for body in rendered() if body["kind"] not in WORKLOADS]
        plane.apply({"apiVersion": "v1", "kind": "List", "items": chart})
        nobody = self.agent(None)
        names = (f"nobody-{number}" for number in itertools.count())  # one that came too early has made its host
        until(lambda: refusal(lambda: nobody.make_host(next(names))), "the policy is in force")

    def agent(self, node: str | None) -> "Agent":
        """Return the agent of a node; None: one whose token is of the service account alone."""
        namespace, account = ACCOUNTS["agent"]
        pod = None
        if node:
            pod = f"agent-{node}"
            self.plane.placeholder_pod(namespace, pod, account, node)
        return Agent(Client(self.plane.service_account_kubeconfig(namespace, account, pod), field_manager="agent"))

    def controller(self) -> Client:
        return Client(self.plane.service_account_kubeconfig(*ACCOUNTS["controller"]), field_manager="controller")

    def backup(self, name: str, node: str = "", **status: Any) -> Body:
        """Make a VMBackup, as its user and the controller do; with `node` it is bound."""
        self.admin.create(VMBACKUP.collection("default"), vmbackup(name))
        status = {"node": node, "phase": "Assigned", **status} if node else status
        return self.admin.patch(f"{VMBACKUP.path(name, 'default')}/status", {"status": status})

    def read(self, name: str) -> Body:
        return self.admin.get(VMBACKUP.path(name, "default"))

    def can_i(self, who: str, *question: str) -> str:
        """Ask in the name of somebody; returns what kubectl says."""
        # It ends with 1 for "no", so the plane's own kubectl would take that for a fault.
        flags = [f"--kubeconfig={self.plane.kubeconfig}", f"--cache-dir={self.plane.directory / 'kubectl-cache'}"]
        command = [str(tool("kubectl")), *flags, "auth", "can-i", *question, f"--as={who}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not ended.stderr or ended.stderr.startswith("Warning"), ended.stderr
        return ended.stdout

    @contextlib.contextmanager
    def wide_roles(self) -> Iterator[None]:
        """Let the agent do everything by its roles, so that nothing but the policy stands in the way."""
        name = "somebody-was-generous"
        namespace, account = ACCOUNTS["agent"]
        self.plane.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            }
        )
        try:
            until(lambda: self.can_i(user("agent"), "delete", "vmbackups").strip() == "yes", "the wide roles hold")
            yield
        finally:
            self.plane.kubectl("delete", "clusterrolebinding", name)
            until(lambda: self.can_i(user("agent"), "delete", "vmbackups").strip() == "no", "the wide roles are gone")


class Agent:
    """What whoever has the token of an agent can try."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.resources = Resources(client)

    def report(self, name: str, body: Body) -> Body:
        return self.client.patch(f"{VMBACKUP.path(name, 'default')}/status", body)

    def make_host(self, name: str, **metadata: Any) -> Body:
        body = {"apiVersion": names.API_VERSION, "kind": "VMHost", "metadata": {"name": name, **metadata}}
        return self.client.create(VMHOST.collection(), body)

    def claims(self) -> Body:
        """Return what the API server takes the token's owner for."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = self.client.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        return dict(answer["status"]["userInfo"])


def vmbackup(name: str) -> Body:
    metadata = {"name": name, "namespace": "default"}
    spec = {"source": {"name": "web"}, "location": "nightly"}
    return {"apiVersion": names.API_VERSION, "kind": "VMBackup", "metadata": metadata, "spec": spec}


def refusal(deed: Callable[[], object]) -> str:
    """Do something and return the words with which the policy refused it; empty when it was let through."""
    try:
        deed()
    except Denied as error:
        return error.message if "ValidatingAdmissionPolicy" in error.message else ""
    return ""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ControlPlane(tmp_path_factory.mktemp("policy") / "control-plane") as plane:
        yield Cluster(plane)


@pytest.fixture(scope="session")
def node_1(cluster: Cluster) -> Agent:
    return cluster.agent("node-1")


@pytest.fixture(scope="session")
def nobody(cluster: Cluster) -> Agent:
    """An agent's token that no pod stands behind."""
    return cluster.agent(None)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for the objects of one test."""
    return f"t{abs(hash(request.node.nodeid)) % 16**10:010x}"


def dumped(body: Body) -> str:
    return json.dumps(body, sort_keys=True)
