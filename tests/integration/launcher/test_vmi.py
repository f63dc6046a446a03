"""From a VMBackup of a VirtualMachineInstance to its set, through a real API server, a controller and an agent."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.launcher.cloud import NODE, Cloud, Tenant
from integration.launcher.pod import Kubelet, LauncherPod
from integration.launcher.scene import Scene
from integration.system.backup import eventually
from testbed.controlplane import ControlPlane
from testbed.errors import TestbedError

CRDS = Path(__file__).resolve().parents[3] / "crds"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cloud(directory: Path, kubelet: Kubelet) -> Iterator[Cloud]:
    place = directory / "cloud"
    place.mkdir()
    with pytest.MonkeyPatch.context() as environment, ControlPlane(place / "k8s") as cluster:
        environment.setenv("KUBECACHEDIR", str(place / "kubectl-cache"))
        cluster.apply(CRDS)
        cloud = Cloud(cluster, place, kubelet.directory)
        yield cloud
        cloud.stop()


@pytest.fixture
def kubevirt(cloud: Cloud) -> Cloud:
    cloud.install_kubevirt()
    return cloud


@pytest.fixture
def tenant(kubevirt: Cloud) -> Tenant:
    return Tenant(kubevirt, f"team-{next(_numbers)}")


@pytest.fixture
def new_vm(new_pod: Callable[..., LauncherPod], directory: Path) -> Iterator[Callable[..., Scene]]:
    """Start a pod with a VM: `new_vm("namespace_name", session=...)`."""
    scenes: list[Scene] = []

    def start(domain: str, *, session: bool = True, **size: int) -> Scene:
        pod = new_pod(session=session)
        scenes.append(Scene(pod, pod.directory / "scene"))
        scenes[-1].start_vm(name=domain, **size)
        return scenes[-1]

    yield start
    for scene in scenes:
        assert scene.mounts() == []
        shutil.rmtree(scene.place)


def test_cluster_without_kubevirt_serves_it_when_it_comes(cloud: Cloud, new_vm: Callable[..., Scene]) -> None:
    tenant = Tenant(cloud, f"team-{next(_numbers)}")
    tenant.back_up("web")
    refused = tenant.until_over()
    assert (refused.outcome, refused.reason) == ("Refused", "VMNotFound")
    assert "kubevirt.io/v1" in refused.message
    assert cloud.controller.runs
    cloud.install_kubevirt()
    tenant.make_vmi("web", new_vm(f"{tenant.namespace}_web").pod)
    tenant.back_up("web", "second", verify="Checksum")
    backup = tenant.until(lambda backup: backup.over or backup.reason == "VMNotFound", "second")
    if backup.outcome == "Refused":  # KubeVirt was noticed later than the grace for a missing VM
        tenant.back_up("web", "third")
        backup = tenant.until_over("third")
    assert backup.outcome == "Succeeded", backup.message
    assert backup.status["node"] == NODE
    assert [str(path.relative_to(tenant.directory)) for path in tenant.sets()] == [backup.status["set"]]


@pytest.mark.parametrize("session", [True, False], ids=["session", "system"])
def test_vmi_is_backed_up(tenant: Tenant, new_vm: Callable[..., Scene], session: bool) -> None:
    tenant.make_vmi("web", new_vm(f"{tenant.namespace}_web", session=session).pod)
    tenant.back_up("web")
    backup = tenant.until_over()
    assert backup.outcome == "Succeeded", backup.message
    assert backup.status["method"]["used"] == "Push"
    assert len(tenant.sets()) == 1


def test_migration_is_waited_for_and_what_it_leaves_is_not(tenant: Tenant, new_vm: Callable[..., Scene]) -> None:
    pod = new_vm(f"{tenant.namespace}_web").pod
    elsewhere = "00000000-0000-4000-8000-000000000001"
    both = {pod.uid: NODE, elsewhere: "node-2"}
    tenant.make_vmi("web", pod, activePods=both)
    tenant.back_up("web")
    tenant.until_waits("launcher pods on node node-1 and on node-2")
    tenant.make_vmi(
        "web", pod, activePods=both, migrationState={"startTimestamp": "2026-11-23T10:00:00Z", "targetNode": "node-2"}
    )
    waits = tenant.until_waits("migrating to node node-2")
    assert waits.reason == "ForeignJob"
    ended = {"completed": True, "endTimestamp": "2026-11-23T10:01:00Z", "targetNode": NODE}
    tenant.make_vmi("web", pod, activePods=both, migrationState=ended)
    assert tenant.until_over().outcome == "Succeeded"


def test_own_backup_of_kubevirt_is_waited_for(tenant: Tenant, new_vm: Callable[..., Scene]) -> None:
    pod = new_vm(f"{tenant.namespace}_web").pod
    native = {"state": "Enabled", "backupStatus": {"backupName": "nightly", "startTimestamp": "2026-11-23T10:00:00Z"}}
    tenant.make_vmi("web", pod, changedBlockTracking=native)
    tenant.back_up("web")
    tenant.until_waits("KubeVirt's own backup nightly is running")
    native["backupStatus"] |= {"completed": True, "endTimestamp": "2026-11-23T10:01:00Z"}  # type: ignore[operator]
    tenant.make_vmi("web", pod, changedBlockTracking=native)
    assert tenant.until_over().outcome == "Succeeded"


def test_vmi_that_does_not_run_is_waited_for_until_the_deadline(tenant: Tenant) -> None:
    tenant.make_vmi("web", phase="Scheduling")
    tenant.back_up("web", deadlineSeconds=5)
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Refused", "DeadlineExceeded")
    assert "is Scheduling, not Running" in backup.message


def test_vmi_of_another_namespace_is_as_if_it_were_not_there(
    kubevirt: Cloud, tenant: Tenant, new_vm: Callable[..., Scene]
) -> None:
    other = Tenant(kubevirt, f"team-{next(_numbers)}")
    tenant.make_vmi("web", new_vm(f"{tenant.namespace}_web").pod)
    other.back_up("web")
    stolen, missing = other.until_over(), None
    other.back_up("wbe", "missing")
    missing = other.until_over("missing")
    assert (stolen.outcome, stolen.reason) == ("Refused", "VMNotFound")
    assert stolen.message.replace("web", "wbe") == missing.message


def test_pod_of_another_tenant_in_the_own_status_is_refused(
    kubevirt: Cloud, tenant: Tenant, new_vm: Callable[..., Scene]
) -> None:
    """A status can be written by whoever may update the object: it must not open somebody else's VM."""
    victim = new_vm(f"{tenant.namespace}_web")
    thief = Tenant(kubevirt, f"team-{next(_numbers)}")
    thief.make_vmi("web", victim.pod)
    thief.back_up("web")
    backup = thief.until_over()
    assert (backup.outcome, backup.reason) == ("Refused", "VMNotFound")
    assert f"has no VM {thief.namespace}_web" in backup.message
    assert thief.sets() == []
    assert list(victim.pod.volume.iterdir()) == [], "nothing was shown to the pod"


@pytest.mark.parametrize("uid", ["../../../etc", "0f8fad5b-d9cb-469f-a165-70867728950e/../x", "*", "1"])
def test_pod_uid_that_is_none_reaches_nothing(tenant: Tenant, uid: str) -> None:
    tenant.make_vmi("web", phase="Running", nodeName=NODE, activePods={uid: NODE})
    tenant.back_up("web", deadlineSeconds=8)
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Refused", "DeadlineExceeded")
    assert "no running launcher pod" in backup.message


def test_pod_deleted_in_mid_copy_ends_in_words(tenant: Tenant, new_vm: Callable[..., Scene]) -> None:
    scene = new_vm(f"{tenant.namespace}_web", mib=1024, data_mib=768)
    tenant.make_vmi("web", scene.pod)
    tenant.back_up("web", maxBytesPerSecond="64Ki")
    tenant.until(lambda backup: backup.phase == "Copying" or backup.over)
    scene.pod.stop()
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Failed", "VMNotFound"), backup.message
    assert scene.pod.uid in backup.message
    assert tenant.sets() == []
    assert list(tenant.directory.rglob(".*")) == []


def test_backup_deleted_in_mid_copy_leaves_nothing_mounted(tenant: Tenant, new_vm: Callable[..., Scene]) -> None:
    scene = new_vm(f"{tenant.namespace}_web", mib=1024, data_mib=768)
    tenant.make_vmi("web", scene.pod)
    tenant.back_up("web", maxBytesPerSecond="64Ki")
    tenant.until(lambda backup: backup.phase == "Copying")
    tenant.kubectl("delete", "vmbackups.vmbackup.dev", "backup", "--timeout=60s")
    assert scene.mounts() == []
    assert list(scene.pod.volume.iterdir()) == []
    assert tenant.sets() == []


@pytest.mark.parametrize("meanwhile", ["nothing", "the job ends", "the pod goes"])
def test_lost_journal_leaves_no_mount_no_job_and_no_unfinished_set(
    kubevirt: Cloud, tenant: Tenant, new_vm: Callable[..., Scene], meanwhile: str
) -> None:
    scene = new_vm(f"{tenant.namespace}_web", mib=1024, data_mib=768)
    tenant.make_vmi("web", scene.pod)
    tenant.back_up("web", maxBytesPerSecond="64Ki")
    tenant.until(lambda backup: backup.phase == "Copying")
    kubevirt.agent.kill()
    assert scene.mounts()
    shutil.rmtree(kubevirt.directory / "state")
    tenant.cancel_by_deletion()
    if meanwhile == "the pod goes":
        scene.pod.stop()
    else:
        scene.slow_down(0 if meanwhile == "the job ends" else 65536)
        eventually(lambda: meanwhile == "nothing" or not scene.job_runs(), "the job is over")
    kubevirt.agent.start()
    tenant.until_gone()
    eventually(lambda: not scene.mounts(), "the mount is gone")
    eventually(lambda: not list(tenant.directory.rglob(".*")), "the unfinished set is removed")
    assert list(scene.pod.volume.iterdir()) == []
    assert tenant.sets() == []
    assert meanwhile == "the pod goes" or not scene.job_runs()


def test_snapshot_is_refused_with_the_reason(tenant: Tenant, new_vm: Callable[..., Scene]) -> None:
    tenant.make_vmi("web", new_vm(f"{tenant.namespace}_web").pod)
    tenant.back_up("web", method="Snapshot")
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Refused", "MethodUnsupported")
    assert "an overlay does not survive it" in backup.message


def test_node_of_a_vmi_is_refused_by_the_api_server(tenant: Tenant) -> None:
    with pytest.raises(TestbedError, match=r"Leave source\.node out"):
        tenant.back_up("web", source={"kind": "VirtualMachineInstance", "name": "web", "node": NODE})
