"""Push into a location through a launcher pod: what comes of it, and that nothing is left mounted, ever."""

import os
import shutil
from collections.abc import Callable

import pytest

from integration.launcher.pod import HOTPLUG_DISKS, LauncherPod
from integration.launcher.scene import DOMAIN, Scene
from integration.libvirt.machines import same_content, wait_until
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.errors import Refused
from vmbackup.hypervisor.launcher import launcher

DAEMONS = [("9.0", False), ("9.0", True), ("11.3", False), ("11.3", True)]
DEATHS = [
    "in Preparing",
    "after MakeDirectory",
    "before MountDirectory",
    "after MountDirectory",
    "before BeginPush",
    "after BeginPush",
    "in Copying",
    "in Verifying",
    "before UnmountDirectory",
    "after UnmountDirectory",
    "before Publish",
    "after Publish",
]


@pytest.mark.parametrize(("release", "session"), DAEMONS)
def test_set_is_published_equal_to_the_disk_and_nothing_is_left(scene: Scene) -> None:
    image = scene.start_vm()
    run = scene.backup(verify="Checksum").end()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    (published,) = scene.sets()
    assert same_content(published / "vda.qcow2", image)
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in published.iterdir()} == {(0, 0o600)}
    assert (published / "vda.qcow2").stat().st_size < 16 << 20, "the copy is not sparse"
    scene.assert_nothing_left()


@pytest.mark.parametrize("session", [True, False])
def test_pod_sees_the_unfinished_set_alone_while_it_is_written(scene: Scene) -> None:
    scene.start_vm(mib=1024, data_mib=768)
    backup = scene.held()
    (seen,) = scene.pod.run("ls", "-A", HOTPLUG_DISKS).split()
    assert seen == backup.first.partial_name
    assert set(scene.pod.run("ls", "-A", f"{HOTPLUG_DISKS}/{seen}").split()) == {".owner", "domain.xml", "vda.qcow2"}
    (mount,) = [line for line in scene.mounts() if "master:" in line]
    assert {"nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(","))
    scene.slow_down(0)
    assert backup.end().outcome is Outcome.SUCCEEDED
    scene.assert_nothing_left()


def test_user_of_the_pod_can_write_the_images_and_nothing_else(scene: Scene) -> None:
    scene.start_vm(mib=1024, data_mib=768)
    backup = scene.held()
    shown = f"{HOTPLUG_DISKS}/{backup.first.partial_name}"
    as_qemu = ["setpriv", "--reuid=107", "--regid=107", "--clear-groups", "sh", "-c"]
    deeds = [
        f"cat {shown}/.owner",
        f"cat {shown}/domain.xml",
        f"rm {shown}/.owner",
        f"ls {shown}",
        f"touch {shown}/new",
    ]
    for deed in deeds:
        with pytest.raises(AssertionError, match="Permission denied"):
            scene.pod.run(*as_qemu, deed)
    scene.pod.run(*as_qemu, f"test -w {shown}/vda.qcow2")
    backup.cancel()
    assert backup.end().outcome is Outcome.CANCELLED
    scene.assert_nothing_left()


@pytest.mark.parametrize("death", DEATHS)
def test_agent_killed_and_restarted(scene: Scene, death: str) -> None:
    scene.start_vm()
    scene.engine().begin(scene.request())
    assert scene.process(death).wait(60) == -9, "it did not die there"
    run = scene.finish()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert len(scene.sets()) == 1
    scene.assert_nothing_left()


def test_cancelled_in_mid_copy(scene: Scene) -> None:
    scene.start_vm(mib=1024, data_mib=768)
    backup = scene.held()
    backup.cancel()
    assert backup.end().outcome is Outcome.CANCELLED
    assert not scene.job_runs()
    assert scene.sets() == []
    scene.assert_nothing_left()


@pytest.mark.parametrize("session", [True, False])
def test_daemon_in_the_pod_dies_in_mid_copy_and_is_started_again(scene: Scene) -> None:
    scene.start_vm(mib=1024, data_mib=768)
    backup = scene.held()
    scene.pod.kill_daemon()
    scene.pod.start_daemon()
    scene.slow_down(0)
    run = backup.end()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.attempt == 1, "the job ran on in QEMU: it is adopted"
    scene.assert_nothing_left()


def test_pod_deleted_in_mid_copy_is_a_failure_in_words(scene: Scene) -> None:
    """kubelet removes the volumes of a dead pod, with whatever is mounted there: here as fast as it can."""
    scene.start_vm(mib=1024, data_mib=768)
    backup = scene.held()
    scene.pod.stop()
    shutil.rmtree(scene.pod.volume.parents[2], ignore_errors=True)
    run = backup.end()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.VM_NOT_FOUND
    assert scene.pod.uid in run.failure.message
    assert "Make a new VMBackup" in run.failure.message
    assert scene.sets() == []
    scene.assert_nothing_left()


def test_agent_that_was_away_when_the_pod_was_deleted_cleans_up(scene: Scene) -> None:
    scene.start_vm(mib=1024, data_mib=768)
    scene.engine().begin(scene.request())
    assert scene.process("after MountDirectory").wait(60) == -9
    assert scene.mounts()
    scene.pod.stop()
    run = scene.finish()
    assert run.outcome is Outcome.FAILED
    scene.assert_nothing_left()


def test_launcher_restarted_in_mid_copy_is_another_pod(scene: Scene, new_pod: Callable[..., LauncherPod]) -> None:
    """The VM runs again at once, in a pod of another UID: the backup of the first ends, with its name."""
    scene.start_vm(mib=1024, data_mib=768)
    backup = scene.held()
    scene.pod.stop()
    again = Scene(new_pod(session=True), scene.place / "again")
    again.start_vm()
    run = backup.end()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert scene.pod.uid in run.failure.message
    scene.assert_nothing_left()
    assert again.backup().end().outcome is Outcome.SUCCEEDED


def test_guest_killed_in_mid_copy_and_started_in_the_same_pod_gets_a_new_attempt(scene: Scene) -> None:
    scene.start_vm(mib=1024, data_mib=768)
    backup = scene.held()
    connection = scene.pod.connect()
    domain = connection.lookupByName(DOMAIN)
    domain.destroy()
    wait_until(lambda: backup.phase in (Phase.ASSIGNED, Phase.DISCARDING), "the attempt is given up")
    domain.create()
    connection.close()
    run = backup.end()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.attempt > 1
    scene.assert_nothing_left()


def test_volume_without_propagation_is_refused_in_words(new_pod: Callable[..., LauncherPod]) -> None:
    with pytest.raises(Refused, match="without mountPropagation HostToContainer") as refusal:
        launcher(new_pod(session=True, propagation="private").uid)
    assert refusal.value.reason == Reason.METHOD_UNSUPPORTED


def test_vm_of_another_name_in_the_pod_is_not_taken_for_it(scene: Scene) -> None:
    scene.start_vm(name="team-b_web")
    assert scene.engine().hypervisor.find(DOMAIN).state == "absent"
    assert os.listdir(scene.pod.volume) == []
