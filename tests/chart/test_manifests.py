"""What is not Helm: the kustomize bases make what the chart makes, Argo CD's samples fit it."""

import json

import yaml

from chart.programs import CHART, ROOT, Body, call, render
from chart.values import EVERYTHING, dry_run
from testbed.controlplane import ControlPlane
from testbed.tools import tool
from vmbackup.api import crd, names


def kustomized(directory: str) -> list[Body]:
    text = call(str(tool("kubectl")), "kustomize", str(ROOT / "manifests" / directory))
    return [body for body in yaml.safe_load_all(text) if body]


def identity(body: Body) -> tuple[str, str, str]:
    return body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"]


def test_kustomize_makes_what_helm_makes(cluster: ControlPlane) -> None:
    values = {"namespace": {"create": True}, "agent": {"directories": {"locations": ["/srv/vmbackup"]}}}
    hooks = [body for body in render(values) if "helm.sh/hook" in body["metadata"].get("annotations", {})]
    by_helm = {identity(body) for body in render(values)} - {identity(body) for body in hooks}
    made = kustomized("default")
    assert {identity(body) for body in made} == by_helm
    assert len(dry_run(cluster, made).splitlines()) == len(made)
    assert "Helm" not in json.dumps([body["metadata"] for body in made])


def test_kubevirt_adds_rights_and_mounts_only(cluster: ControlPlane) -> None:
    usual, special = ({identity(body): body for body in kustomized(name)} for name in ("default", "kubevirt"))
    assert set(usual) == set(special)
    assert {key[0] for key in special if special[key] != usual[key]} == {"ClusterRole", "DaemonSet"}
    assert dry_run(cluster, list(special.values()))


def test_monitoring_adds_only_monitoring(cluster: ControlPlane) -> None:
    added = {identity(body) for body in kustomized("monitoring")} - {identity(body) for body in kustomized("default")}
    assert {kind for kind, _, _ in added} == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert dry_run(cluster, kustomized("monitoring"))


def test_monitors_keep_the_namespace_of_the_vm() -> None:
    """Without honorLabels Prometheus renames our label `namespace`, and no alert on a VM would ever fire."""
    bodies = render(EVERYTHING)
    ends = [
        end
        for body in bodies
        for end in body.get("spec", {}).get("podMetricsEndpoints", body.get("spec", {}).get("endpoints", []))
    ]
    assert len(ends) == 4
    assert all(end["honorLabels"] and end["path"] == "/metrics" for end in ends)


def test_application_of_argo_cd_points_to_the_chart() -> None:
    directory = ROOT / "manifests/argocd"
    (application,) = yaml.safe_load_all((directory / "application.yaml").read_text())
    chart, resources = application["spec"]["sources"]
    assert (ROOT / chart["path"]).resolve() == CHART
    assert render(chart["helm"]["valuesObject"])
    waves = {
        body["kind"]: int(body["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for path in (ROOT / resources["path"]).glob("*.yaml")
        for body in yaml.safe_load_all(path.read_text())
    }
    assert 0 < waves["VMBackupLocation"] < waves["VMBackup"]
    assert {"ServerSideApply=true", "SkipDryRunOnMissingResource=true"} <= set(
        application["spec"]["syncPolicy"]["syncOptions"]
    )


def test_config_map_of_argo_cd_has_the_health_checks() -> None:
    directory = ROOT / "manifests/argocd"
    (patch,) = yaml.safe_load_all((directory / "argocd-cm.yaml").read_text())
    scripts = {path.parent.name: path.read_text() for path in directory.glob("resource_customizations/*/*/health.lua")}
    assert patch["data"] == {
        f"resource.customizations.health.{names.GROUP}_{kind}": text for kind, text in scripts.items()
    }
    assert set(scripts) == {resource.model.__name__ for resource in crd.RESOURCES}
