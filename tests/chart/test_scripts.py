"""What `helm test` and `helm uninstall` run, as processes with the controller's rights on a real API server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chart.programs import CHART, NAMESPACE, ROOT, Body
from testbed.controlplane import ControlPlane
from vmbackup.api import names

BACKUP = {
    "apiVersion": names.API_VERSION,
    "kind": "VMBackup",
    "metadata": {"name": "nightly", "namespace": "default"},
    "spec": {"source": {"name": "web"}, "location": "nightly"},
}
RESTORE = BACKUP | {
    "kind": "VMRestore",
    "spec": {"source": {"backup": "nightly"}, "target": {"instant": {"name": "web-2"}}},
}


class Account:
    """The controller's service account with the shipped roles."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster = cluster
        cluster.apply(ROOT / "crds")
        cluster.apply(ROOT / "manifests/rbac/controller.yaml")
        self._kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, "controller")

    def run(self, script: str, **variables: str) -> tuple[int, str]:
        """Run one of the chart's scripts; the kubeconfig stands in for the pod's mounted token."""
        code = (CHART / "files" / script).read_text().replace("Client(None,", "Client(KUBECONFIG,")
        assert "Client(KUBECONFIG," in code
        ended = subprocess.run(
            [sys.executable, "-c", f"KUBECONFIG = {str(self._kubeconfig)!r}\n{code}"],
            env=os.environ | {"OPERATOR_NAMESPACE": NAMESPACE} | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def lease(self, name: str, holder: str) -> None:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 90, "renewTime": renewed}
        metadata = {"name": name, "namespace": NAMESPACE}
        self.cluster.apply(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        )

    def report(self, kind: str = "vmb", **status: str) -> None:
        body: Body = BACKUP | {"status": status}
        patch = [
            "--subresource=status",
            "--type=merge",
            "--patch",
            f'{{"status": {body["status"]!r}}}'.replace("'", '"'),
        ]
        self.cluster.kubectl("patch", kind, "nightly", "--namespace=default", *patch)


@pytest.fixture(scope="module")
def account(cluster: ControlPlane) -> Iterator[Account]:
    account = Account(cluster)
    yield account
    cluster.kubectl("delete", "--ignore-not-found", "-f", str(ROOT / "manifests/rbac/controller.yaml"))
    cluster.kubectl("delete", "-f", str(ROOT / "crds"))


def test_selfcheck_names_what_is_missing_and_passes_when_it_has_come(account: Account) -> None:
    code, said = account.run("selfcheck.py", WAIT_SECONDS="0")
    assert code == 1, said
    assert "FAIL a controller leads" in said
    assert "FAIL an agent is heard of: none" in said
    assert "ok   VMBackup is served" in said
    account.lease(names.LEASE_CONTROLLER, "controller-1")
    account.lease(f"{names.LEASE_AGENT_PREFIX}node-1", "node-1")
    account.cluster.apply({"apiVersion": names.API_VERSION, "kind": "VMHost", "metadata": {"name": "node-1"}})
    code, said = account.run("selfcheck.py", WAIT_SECONDS="0")
    assert (code, said.count("FAIL")) == (0, 0), said


def test_uninstall_waits_for_no_queue_and_stops_for_work_on_a_node(account: Account) -> None:
    assert account.run("uninstall.py") == (0, "")
    account.cluster.apply(BACKUP)
    assert account.run("uninstall.py") == (0, ""), "what has not begun leaves no VM on an overlay"
    account.report(node="node-1", phase="Committing")
    code, said = account.run("uninstall.py")
    assert code == 1
    assert "default/nightly on node node-1" in said
    account.report(phase="Done")
    assert account.run("uninstall.py") == (0, "")


def test_uninstall_stops_for_a_vm_that_runs_on_a_set(account: Account) -> None:
    """Its data is not all there yet, and nobody else would bring it."""
    account.cluster.apply(RESTORE)
    assert account.run("uninstall.py") == (0, "")
    account.report("vmr", node="node-1", phase="Pulling")
    code, said = account.run("uninstall.py")
    assert code == 1
    assert "VMRestore default/nightly on node node-1" in said
    account.report("vmr", phase="Done")
    assert account.run("uninstall.py") == (0, "")


@pytest.mark.parametrize("script", sorted(path.name for path in (CHART / "files").glob("*.py")))
def test_script_imports_only_what_the_image_has(script: str) -> None:
    """No tests, no dev/: isolated mode, and a folder where nothing else lies."""
    lines = [line for line in (CHART / "files" / script).read_text().splitlines() if "import" in line]
    ended = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(lines)], cwd=Path("/"), capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
