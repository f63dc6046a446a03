"""What the two service accounts may do by their roles: the API server's own answer, not our reading of the YAML."""

import pytest

from attack.kube.conftest import RELEASE, SYSTEM, Agent, Cluster, until, user
from vmbackup.cluster.errors import Denied

NEVER = [
    "get secrets",
    "list secrets",
    "watch secrets",
    "create pods",
    "delete pods",
    "create pods/exec",
    "get pods/exec",
    "create pods/attach",
    "create pods/portforward",
    "create pods/ephemeralcontainers",
    "get pods/log",
    "patch nodes",
    "update nodes",
    "patch nodes/status",
    "get nodes/proxy",
    "create serviceaccounts/token",
    "impersonate users",
    "impersonate serviceaccounts",
    "create clusterrolebindings.rbac.authorization.k8s.io",
    "escalate clusterroles.rbac.authorization.k8s.io",
    "bind clusterroles.rbac.authorization.k8s.io",
    "create validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "delete validatingadmissionpolicies.admissionregistration.k8s.io",
    "patch customresourcedefinitions.apiextensions.k8s.io",
    "patch namespaces",
    "delete namespaces",
    "create vmbackupschedules.vmbackup.dev",
    "patch vmbackupschedules.vmbackup.dev",
    "delete vmbackupschedules.vmbackup.dev",
    "create vmbackuplocations.vmbackup.dev",
    "patch vmbackuplocations.vmbackup.dev",
    "get configmaps",
    "create deployments.apps",
    "patch daemonsets.apps",
]
AGENT_NEVER = [
    "create vmbackups.vmbackup.dev",
    "create vmrestores.vmbackup.dev",
    "patch vmrestores.vmbackup.dev",
    "update vmrestores.vmbackup.dev",
    "delete vmrestores.vmbackup.dev",
    "update vmrestores.vmbackup.dev/status",
    "get vmbackupschedules.vmbackup.dev",
    "patch vmbackupschedules.vmbackup.dev/status",
    "patch vmbackups.vmbackup.dev",
    "update vmbackups.vmbackup.dev",
    "delete vmbackups.vmbackup.dev",
    "deletecollection vmbackups.vmbackup.dev",
    "update vmbackups.vmbackup.dev/status",
    "patch vmbackuplocations.vmbackup.dev/status",
    "patch vmhosts.vmbackup.dev",
    "delete vmhosts.vmbackup.dev",
    "delete leases.coordination.k8s.io",
    "delete events.events.k8s.io",
]
CONTROLLER_NEVER = [
    "update vmbackups.vmbackup.dev",
    "deletecollection vmbackups.vmbackup.dev",
    "deletecollection vmrestores.vmbackup.dev",
    "patch vmhosts.vmbackup.dev/status",
    "create vmhosts.vmbackup.dev",
    "delete leases.coordination.k8s.io",
]


def question(deed: str) -> list[str]:
    """Return what kubectl understands: after a slash it would read the name of an object, not a subresource."""
    verb, what = deed.split()
    resource, _, subresource = what.partition("/")
    return [verb, resource, *([f"--subresource={subresource}"] if subresource else [])]


@pytest.mark.parametrize(
    ("account", "deed"),
    [
        *(("controller", deed) for deed in [*NEVER, *CONTROLLER_NEVER]),
        *(("agent", deed) for deed in [*NEVER, *AGENT_NEVER]),
    ],
)
@pytest.mark.parametrize("where", ["--all-namespaces", f"--namespace={SYSTEM}"])
def test_deed_is_not_allowed(cluster: Cluster, account: str, deed: str, where: str) -> None:
    assert cluster.can_i(user(account), *question(deed), where).strip().startswith("no")


def test_the_questions_are_understood_at_all(cluster: Cluster) -> None:
    """What is misspelt would be refused for ever."""
    known = {name.removesuffix(".apps") for name in cluster.plane.kubectl("api-resources", "-o", "name").split()}
    asked = {question(deed)[1] for deed in (*NEVER, *AGENT_NEVER, *CONTROLLER_NEVER, *TENANT_NEVER)}
    assert {name.removesuffix(".apps") for name in asked} - known == {"users"}  # only impersonation knows these
    assert cluster.can_i(user("agent"), *question("patch vmbackups.vmbackup.dev/status")) == "yes\n"
    assert cluster.can_i(user("controller"), *question("patch vmbackups.vmbackup.dev")) == "yes\n"


@pytest.mark.parametrize("account", ["controller", "agent"])
def test_no_wildcard_and_nothing_of_the_core_but_reading_objects(cluster: Cluster, account: str) -> None:
    """Every right that the account has, as the API server lists it."""
    rows = [line.split() for line in cluster.can_i(user(account), "--list", f"--namespace={SYSTEM}").splitlines()[1:]]
    resources = {row[0]: row[-1] if row[-1].endswith("]") else "" for row in rows}
    assert not any("*" in resource for resource in resources if not resource.startswith("["))
    ours = {resource for resource in resources if not resource.startswith("[") and "k8s.io" not in resource}
    assert {resource for resource in ours if "." not in resource} <= {"namespaces"}


@pytest.mark.parametrize("account", ["controller", "agent"])
def test_secret_is_really_not_given_out(cluster: Cluster, node_1: Agent, account: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"of-{account}", "namespace": SYSTEM}}
    cluster.admin.create(f"/api/v1/namespaces/{SYSTEM}/secrets", secret)
    client = node_1.client if account == "agent" else cluster.controller()
    with pytest.raises(Denied, match="cannot get resource"):
        client.get(f"/api/v1/namespaces/{SYSTEM}/secrets/of-{account}")


# -- users --------------------------------------------------------------------------------------------------------

TENANT_NEVER = [
    "patch vmbackups.vmbackup.dev/status",
    "update vmbackups.vmbackup.dev/status",
    "patch vmrestores.vmbackup.dev/status",
    "patch vmbackupschedules.vmbackup.dev/status",
    "create vmbackuplocations.vmbackup.dev",
    "patch vmbackuplocations.vmbackup.dev",
    "list vmhosts.vmbackup.dev",
    "patch vmhosts.vmbackup.dev/status",
]


@pytest.fixture(scope="module")
def tenant(cluster: Cluster) -> str:
    """A user who has, in namespace team-a, the rights that the chart adds to the roles view, edit and admin."""
    cluster.plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})
    api_group = "rbac.authorization.k8s.io"
    for role in ("view", "edit"):
        cluster.plane.apply(
            {
                "apiVersion": f"{api_group}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": role, "namespace": "team-a"},
                "subjects": [{"apiGroup": api_group, "kind": "User", "name": "alice"}],
                "roleRef": {"apiGroup": api_group, "kind": "ClusterRole", "name": f"{RELEASE}-{role}"},
            }
        )
    create = ("create", "vmbackups.vmbackup.dev", "--namespace=team-a")
    until(lambda: cluster.can_i("alice", *create).strip() == "yes", "the tenant has her rights")
    return "alice"


@pytest.mark.parametrize("deed", TENANT_NEVER)
def test_tenant_writes_no_status_and_no_location(cluster: Cluster, tenant: str, deed: str) -> None:
    assert cluster.can_i(tenant, *question(deed), "--namespace=team-a").strip().startswith("no")


@pytest.mark.parametrize("kind", ["vmbackups", "vmrestores", "vmbackupschedules"])
@pytest.mark.parametrize("verb", ["get", "list", "watch", "create", "patch", "delete", "deletecollection"])
def test_tenant_reaches_no_backup_of_another_namespace(cluster: Cluster, tenant: str, verb: str, kind: str) -> None:
    resource = f"{kind}.vmbackup.dev"
    assert cluster.can_i(tenant, verb, resource, "--namespace=team-a").strip() == "yes"
    assert cluster.can_i(tenant, verb, resource, "--namespace=team-b").strip().startswith("no")
    assert cluster.can_i(tenant, verb, resource, "--all-namespaces").strip().startswith("no")
