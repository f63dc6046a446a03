"""A real API server that judges what the chart makes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chart.programs import NAMESPACE
from testbed.controlplane import ControlPlane

# Kinds of the Prometheus operator, with as much of a schema as it takes to have them served.
MONITORING = ("PodMonitor", "ServiceMonitor", "PrometheusRule")


def stand_in(kind: str) -> dict[str, object]:
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver with the chart's namespaces and the kinds of the Prometheus operator."""
    directory = tmp_path_factory.mktemp("chart")
    with pytest.MonkeyPatch.context() as environment, ControlPlane(directory / "control-plane") as plane:
        environment.setenv("KUBECACHEDIR", str(directory / "kubectl-cache"))
        for name in (NAMESPACE, "vmbackup-agents"):
            plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for kind in MONITORING:
            plane.apply(stand_in(kind))
        yield plane


@pytest.fixture
def crds() -> Path:
    return Path(__file__).resolve().parents[2] / "crds"
