"""What the chart makes, judged by a real API server: schema, Pod Security, rights; and by our own command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.programs import CHART, NAMESPACE, Body, call, helm, only, render
from chart.values import EVERYTHING, dry_run
from testbed.controlplane import ControlPlane
from testbed.errors import TestbedError
from vmbackup import cli, cli_host
from vmbackup.api import crd

AGENTS = "vmbackup-agents"
LITTLE = {
    "crds": {"install": False},
    "controller": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
    "uninstall": {"check": False},
    "policy": {"enabled": False},
    "users": {"aggregate": False},
    "networkPolicy": {"enabled": False},
    "metrics": {"enabled": False},
}
ONE_NAMESPACE = {"namespace": {"create": True}, "agent": {"namespace": {"name": ""}}, "fullnameOverride": "vmb"}
SETS = {"default": {}, "everything": EVERYTHING, "little": LITTLE, "one-namespace": ONE_NAMESPACE}
each_set = pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())


def pod_spec(body: Body) -> Body:
    return dict(body["spec"]["template"]["spec"] if "template" in body["spec"] else body["spec"])


@each_set
def test_the_api_server_takes_everything(cluster: ControlPlane, values: dict[str, Any]) -> None:
    bodies = render(values)
    said = dry_run(cluster, bodies)
    assert len(said.splitlines()) == len(bodies)
    assert "Warning" not in said


@each_set
def test_our_command_line_takes_the_arguments(values: dict[str, Any]) -> None:
    for kind, role in (("Deployment", "controller"), ("DaemonSet", "agent")):
        (container,) = pod_spec(only(render(values), kind))["containers"]
        assert container["command"] == ["vmbackup-operator"]
        parsed = cli._parser().parse_args(container["args"])
        assert container["args"][0] == role
        assert parsed.namespace == NAMESPACE, "both look for Leases where the controller is"
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["probes"] == parsed.probe_port
        shown = parsed.metrics_address
        assert (shown[1] if shown else None) == ports.get("metrics")


def test_agent_knows_its_node_and_has_time_to_bring_vms_home() -> None:
    spec = pod_spec(only(render({"agent": {"graceSeconds": 120}}), "DaemonSet"))
    (container,) = spec["containers"]
    assert container["env"] == [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    assert cli._parser().parse_args(container["args"]).grace_seconds == 120
    assert spec["terminationGracePeriodSeconds"] == 150


def test_grace_period_is_never_below_a_minute() -> None:
    assert pod_spec(only(render(), "DaemonSet"))["terminationGracePeriodSeconds"] >= 60


# -- Pod Security, as the API server enforces it ------------------------------------------------------------------


def admitted(cluster: ControlPlane, level: str, body: Body) -> str:
    """Return what Pod Security of a level says against a pod; empty when it lets it through."""
    namespace = f"level-{level}"
    labels = {"pod-security.kubernetes.io/enforce": level}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    spec = pod_spec(body) | {"priorityClassName": ""}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": namespace}, "spec": spec}
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod))
    except TestbedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["Deployment", "Pod", "Job"])
def test_all_but_the_agent_are_restricted(cluster: ControlPlane, kind: str) -> None:
    assert admitted(cluster, "restricted", only(render(), kind)) == ""


def test_agent_needs_the_namespace_that_the_chart_makes(cluster: ControlPlane) -> None:
    bodies = render()
    said = admitted(cluster, "baseline", only(bodies, "DaemonSet"))
    assert "hostPath" in said
    assert "hostPID=true" in said
    assert admitted(cluster, "privileged", only(bodies, "DaemonSet")) == ""
    labels = only(bodies, "Namespace", AGENTS)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_release_namespace_that_the_chart_makes_is_as_strict_as_can_be() -> None:
    enforce = "pod-security.kubernetes.io/enforce"
    two = render({"namespace": {"create": True}})
    assert only(two, "Namespace", NAMESPACE)["metadata"]["labels"][enforce] == "restricted"
    assert only(render(ONE_NAMESPACE), "Namespace")["metadata"]["labels"][enforce] == "privileged"


@pytest.mark.parametrize("values", [{"agent": {"blockDevices": True}}, {"kubevirt": {"enabled": True}}], ids=str)
def test_agent_is_privileged_only_where_nothing_less_will_do(values: dict[str, Any]) -> None:
    (usual,) = pod_spec(only(render(), "DaemonSet"))["containers"]
    assert usual["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]},
    }
    (special,) = pod_spec(only(render(values), "DaemonSet"))["containers"]
    assert special["securityContext"] == {"readOnlyRootFilesystem": True, "privileged": True}


def test_agent_shows_mounts_to_launcher_pods_and_reads_who_has_which_vm() -> None:
    bodies = render({"kubevirt": {"enabled": True}})
    (container,) = pod_spec(only(bodies, "DaemonSet"))["containers"]
    assert f"--kubelet={cli.KUBELET_DIRECTORY}" in container["args"]
    assert {
        "name": "pods",
        "mountPath": f"{cli.KUBELET_DIRECTORY}/pods",
        "mountPropagation": "Bidirectional",
    } in container["volumeMounts"]
    verbs = {
        component: [
            rule["verbs"]
            for rule in only(bodies, "ClusterRole", f"-{component}")["rules"]
            if rule["resources"] == ["virtualmachineinstances"]
        ]
        for component in ("controller", "agent")
    }
    assert verbs == {"controller": [["get", "list", "watch"]], "agent": [["get"]]}
    assert "kubevirt" not in json.dumps([body for body in render() if body["kind"] != "CustomResourceDefinition"])


def test_agent_sees_the_directories_it_was_given_and_no_other_by_the_same_path() -> None:
    spec = pod_spec(only(render({"agent": {"directories": {"locations": ["/srv/a"]}}}), "DaemonSet"))
    paths = {one["name"]: one["hostPath"]["path"] for one in spec["volumes"] if "hostPath" in one}
    assert set(paths.values()) == {
        *("/run/libvirt", cli_host.STATE_DIRECTORY, "/srv/a"),
        *("/var/lib/libvirt/images", "/var/lib/libvirt/qemu/nvram"),
    }
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {name: mounts[name] for name in paths} == paths
    # A file system that is mounted on the node later must be seen, or sets would go to what lies below it.
    assert [one["mountPropagation"] for one in container["volumeMounts"] if one["name"] == "location-0"] == [
        "HostToContainer"
    ]
    hosts = [one["hostPath"] for one in spec["volumes"] if "hostPath" in one]
    made = {one["path"] for one in hosts if one["type"] != "Directory"}
    assert made == {cli_host.STATE_DIRECTORY, "/var/lib/libvirt/qemu/nvram"}, "nothing else of a node is ever made"


# -- CRDs ---------------------------------------------------------------------------------------------------------


def test_crds_are_those_of_the_models_and_kept() -> None:
    shipped = {body["metadata"]["name"]: body for body in render() if body["kind"] == "CustomResourceDefinition"}
    models = {body["metadata"]["name"]: body for text in crd.files().values() for body in [yaml.safe_load(text)]}
    for name, body in shipped.items():
        assert body["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert body == models[name]
    assert set(shipped) == set(models)


def test_crds_go_with_the_release_when_asked_and_stay_away_when_asked() -> None:
    def definitions(**crds: bool) -> list[Body]:
        return [body for body in render({"crds": crds}) if body["kind"] == "CustomResourceDefinition"]

    assert definitions(install=False) == []
    assert [body["metadata"].get("annotations") for body in definitions(keep=False)] == [None] * len(crd.RESOURCES)


# -- rights -------------------------------------------------------------------------------------------------------


@each_set
def test_no_role_for_users_writes_a_status(values: dict[str, Any]) -> None:
    ours = ("-controller", "-agent")
    roles = [body for body in render(values) if body["kind"] == "ClusterRole"]
    for role in (role for role in roles if not role["metadata"]["name"].endswith(ours)):
        rules = role["rules"]
        assert {resource for rule in rules for resource in rule["resources"] if "/" in resource} == set()
        assert "*" not in {word for rule in rules for word in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])}


def test_users_get_backups_by_the_roles_that_clusters_have(cluster: ControlPlane) -> None:
    roles = {body["metadata"]["name"]: body for body in render() if body["kind"] == "ClusterRole"}
    verbs = {"view": set[str](), "edit": set[str](), "admin": set[str]()}
    for role in roles.values():
        for target in verbs:
            if role["metadata"]["labels"].get(f"rbac.authorization.k8s.io/aggregate-to-{target}") == "true":
                verbs[target] |= {verb for rule in role["rules"] for verb in rule["verbs"]}
                kinds = {resource for rule in role["rules"] for resource in rule["resources"]}
                assert kinds == {"vmbackups", "vmrestores", "vmbackupschedules"}
    assert verbs["view"] == {"get", "list", "watch"}
    assert verbs["edit"] == verbs["admin"] > verbs["view"]


def test_no_right_on_secrets_pods_or_nodes() -> None:
    roles = [body for body in render(EVERYTHING) if body["kind"] in ("Role", "ClusterRole")]
    given = {resource.split("/")[0] for role in roles for rule in role["rules"] for resource in rule["resources"]}
    assert given & {"secrets", "pods", "nodes", "serviceaccounts", "*"} == set()


# -- the package ---------------------------------------------------------------------------------------------------


def test_package_holds_what_the_templates_read_and_no_more(tmp_path: Path) -> None:
    helm("package", str(CHART), "--destination", str(tmp_path))
    (archive,) = tmp_path.iterdir()
    listed = call("tar", "--list", "--file", str(archive)).splitlines()
    inside = {name.removeprefix("vmbackup-operator/") for name in listed}
    assert {"Chart.yaml", "values.schema.json", "files/alerts.yaml", "files/selfcheck.py", "README.md"} <= inside
    assert "README.head.md" not in inside
    assert {name for name in inside if name.startswith("files/crds/")} == {f"files/crds/{name}" for name in crd.files()}
