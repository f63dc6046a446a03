"""A release in a real API server: installed, upgraded from an older chart, uninstalled, installed again.

Nothing here runs pods (that is tests/e2e); what is tried is what Helm makes of the objects.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from chart.programs import CHART, NAMESPACE, RELEASE, Body, Refused, helm
from fakes.waiting import eventually
from testbed.controlplane import ControlPlane
from vmbackup.api import crd, names

BACKUP: Body = {
    "apiVersion": names.API_VERSION,
    "kind": "VMBackup",
    "metadata": {"name": "nightly", "namespace": "default", "finalizers": [names.FINALIZER]},
    "spec": {"source": {"name": "web"}, "location": "nightly"},
}


class Release:
    """The release, by Helm's command line. The namespace of the agents is made beforehand: nothing would delete it."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster = cluster
        for name in (NAMESPACE, "vmbackup-agents"):
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def helm(self, verb: str, *arguments: str) -> str:
        place = ("--kubeconfig", str(self.cluster.kubeconfig), "--namespace", NAMESPACE)
        return helm(verb, RELEASE, *arguments, *place)

    def put(self, verb: str, chart: Path = CHART, *arguments: str) -> str:
        return self.helm(verb, str(chart), "--set", "agent.namespace.create=false", *arguments)

    def get(self, *arguments: str) -> Body:
        return dict(json.loads(self.cluster.kubectl("get", *arguments, "--output=json")))

    def report(self, phase: str) -> None:
        patch = json.dumps({"status": {"node": "node-1", "phase": phase}})
        self.cluster.kubectl("patch", "vmb", "nightly", "--subresource=status", "--type=merge", f"--patch={patch}")

    def kinds(self) -> set[str]:
        listed = self.cluster.kubectl("get", "crds", "--output=name").split()
        return {name.partition("/")[2] for name in listed}


KINDS = {yaml.safe_load(text)["metadata"]["name"] for text in crd.files().values()}


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    with pytest.MonkeyPatch.context() as environment, ControlPlane(tmp_path / "control-plane") as plane:
        environment.setenv("KUBECACHEDIR", str(tmp_path / "kubectl-cache"))
        yield Release(plane)


@pytest.fixture
def older_chart(tmp_path: Path) -> Path:
    """Return the chart as a version before this one might have been: fewer fields, an object that is gone since."""
    older = tmp_path / "older" / CHART.name
    shutil.copytree(CHART, older)
    description = yaml.safe_load((older / "Chart.yaml").read_text()) | {"version": "0.0.9", "appVersion": "0.0.9"}
    (older / "Chart.yaml").write_text(yaml.safe_dump(description))
    kind = yaml.safe_load((older / "files/crds/vmbackups.yaml").read_text())
    schema = kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del schema["status"]["properties"]["frozenMilliseconds"]
    (older / "files/crds/vmbackups.yaml").write_text(f"# old\n{yaml.safe_dump(kind, sort_keys=False)}")
    gone = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gone", "namespace": NAMESPACE}}
    (older / "templates/gone.yaml").write_text(yaml.safe_dump(gone))
    return older


def test_upgrade_from_an_older_chart_upgrades_the_kinds_and_keeps_what_runs(
    release: Release, older_chart: Path
) -> None:
    release.put("install", older_chart, "--set", "controller.perNode=7")
    release.cluster.apply(BACKUP)
    release.report("Committing")
    before = release.get("vmb", "nightly")
    release.put("upgrade", CHART, "--reset-then-reuse-values")
    assert release.get("vmb", "nightly") == before, "an upgrade touches no backup"
    schema = release.get("crd", "vmbackups.vmbackup.dev")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert "frozenMilliseconds" in schema["properties"]["status"]["properties"]
    pod = release.get("deploy", f"{RELEASE}-controller", "--namespace", NAMESPACE)["spec"]["template"]["spec"]
    assert "--per-node=7" in pod["containers"][0]["args"], "values of the user stay"
    assert pod["containers"][0]["image"].endswith(
        f":{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"
    )
    assert "configmap/gone" not in release.cluster.kubectl("get", "configmaps", "--namespace", NAMESPACE, "-o", "name")


def test_uninstall_keeps_kinds_and_backups_and_the_next_install_takes_them_over(release: Release) -> None:
    release.put("install")
    release.cluster.apply(BACKUP)
    release.report("Committing")
    release.helm("uninstall", "--no-hooks")
    left = release.cluster.kubectl(
        "get", "deploy,ds,cm,role,sa,lease", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name"
    )
    assert left.split() == []
    assert release.kinds() >= KINDS
    assert release.get("vmb", "nightly")["status"]["phase"] == "Committing"
    release.put("install")
    assert release.get("vmb", "nightly")["status"]["phase"] == "Committing"


def test_uninstall_stops_when_its_look_cannot_be_taken(release: Release) -> None:
    """Nobody runs the Job here, as when the image is gone: Helm gives up, and everything is still there."""
    release.put("install")
    with pytest.raises(Refused, match=f"{RELEASE}-uninstall not ready"):
        release.helm("uninstall", "--timeout=3s")
    assert release.get("daemonset", f"{RELEASE}-agent", "--namespace", "vmbackup-agents")
    release.helm("uninstall", "--no-hooks")
    assert "daemonset" not in release.cluster.kubectl("get", "daemonset", "--all-namespaces", "--output=name")


def test_kinds_go_when_they_need_not_be_kept(release: Release) -> None:
    release.put("install", CHART, "--set", "crds.keep=false")
    release.helm("uninstall", "--no-hooks")
    eventually(lambda: not release.kinds() & KINDS)  # the API server removes their objects first


def test_kinds_that_were_there_before_are_left_to_their_owner(release: Release) -> None:
    """Applied by kubectl, they are not Helm's: it says so, and installs without them when asked."""
    release.cluster.apply(CHART.parents[1] / "crds")
    with pytest.raises(Refused, match=r"vmbackup\w*\.vmbackup\.dev"):
        release.put("install")
    release.put("install", CHART, "--set", "crds.install=false")
    release.helm("uninstall", "--no-hooks")
    assert release.kinds() >= KINDS


def test_notes_say_what_comes_next(release: Release) -> None:
    said = release.put("install")
    assert "No directory for backup sets is mounted" in said
    assert f"helm test {RELEASE} -n {NAMESPACE}" in said
    assert "status.phase!=Done" in said
    release.cluster.apply(BACKUP)
    selector = ("get", "vmbackups.vmbackup.dev", "-A", "--field-selector", "status.phase!=Done", "-o", "name")
    assert release.cluster.kubectl(*selector).split() == ["vmbackup.vmbackup.dev/nightly"]
