"""Somebody else works on the VM: his job is never touched; we wait, then go on, or fail with its name."""

from collections.abc import Callable

import libvirt
import pytest

from integration.libvirt.alone import Alone, run_alone
from integration.libvirt.machines import VM, ask_qemu, same_content, wait_until
from integration.libvirt.releases import methods, pushing, releases
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published
from testbed.guests import Disk
from vmbackup.api.conditions import ConditionType
from vmbackup.api.vmbackup import Outcome


def begin_push(vm: VM) -> None:
    """Do as `virsh backup-begin` does, and hold it."""
    target = vm.home / "theirs.qcow2"
    disk = f"<disk name='vda' type='file'><target file='{target}'/></disk>"
    with vm.domain() as domain:
        domain.backupBegin(f"<domainbackup><disks>{disk}</disks></domainbackup>", None, 0)
    vm.slow_down()


def push_runs(vm: VM) -> bool:
    with vm.domain() as domain:
        return bool(domain.jobStats().get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP)


def end_push(vm: VM) -> None:
    with vm.domain() as domain:
        domain.abortJob()
        # Until somebody reads it, the result of his job stays in the daemon.
    wait_until(lambda: not push_runs(vm), "the stranger's job is over")


def begin_copy(vm: VM) -> None:
    """Do as `virsh blockcopy` does: the job goes on until it is ended."""
    copy = f"<disk type='file'><driver type='qcow2'/><source file='{vm.home / 'mirror.qcow2'}'/></disk>"
    with vm.domain() as domain:
        domain.blockCopy("vda", copy, None, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)


def copy_runs(vm: VM) -> bool:
    with vm.domain() as domain:
        return bool(domain.blockJobInfo("vda").get("type") == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY)


def end_copy(vm: VM) -> None:
    with vm.domain() as domain:
        domain.blockJobAbort("vda", 0)
    wait_until(lambda: not copy_runs(vm), "the stranger's block job is over")


def begin_snapshot(vm: VM) -> None:
    """Take an external snapshot with metadata, as people do before an update."""
    with vm.domain() as domain:
        domain.snapshotCreateXML(
            f"<domainsnapshot><name>before-update</name><disks><disk name='vda'>"
            f"<source file='{vm.home / 'theirs.snap'}'/></disk></disks></domainsnapshot>",
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
        )


def snapshot_is_there(vm: VM) -> bool:
    with vm.domain() as domain:
        return bool(domain.snapshotListNames() == ["before-update"])


def end_snapshot(vm: VM) -> None:
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW
    with vm.domain() as domain:
        domain.blockCommit("vda", None, None, 0, flags)
        wait_until(lambda: vm.xml().find("devices/disk/mirror[@ready='yes']") is not None, "ready")
        domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        domain.snapshotLookupByName("before-update").delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


Deed = Callable[[VM], object]
PUSH = (begin_push, push_runs, end_push, "a backup job runs that is not ours")
COPY = (begin_copy, copy_runs, end_copy, "disk vda: a copy block job runs that is not ours")
SNAPSHOT = (begin_snapshot, snapshot_is_there, end_snapshot, "has the external snapshot before-update")
CASES = [
    pytest.param("Push", *PUSH, id="push beside a push"),
    pytest.param("Snapshot", *PUSH, id="snapshot beside a push"),
    pytest.param("Push", *COPY, id="push beside a block copy"),
    pytest.param("Snapshot", *COPY, id="snapshot beside a block copy"),
    pytest.param("Snapshot", *SNAPSHOT, id="snapshot above a snapshot"),
]
strangers = pytest.mark.parametrize(("method", "begin", "goes_on", "end", "words"), CASES)


def new_vm(rig: Rig) -> VM:
    return rig.vm(Disk(rig.large_image()))


@pushing
@strangers
def test_backup_waits_for_a_stranger_and_then_goes_on(
    rig: Rig, method: str, begin: Deed, goes_on: Deed, end: Deed, words: str
) -> None:
    vm = new_vm(rig)
    begin(vm)
    ours = run_alone(rig, vm, method=method)
    ours.wait_for(ConditionType.RECONCILING, words)
    assert goes_on(vm), "the stranger's work was touched"
    assert_nothing_published(rig)
    end(vm)
    assert ours.end() is Outcome.SUCCEEDED, ours.why()
    (published,) = rig.sets()
    assert same_content(published / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait().live["vda"][0] == str(vm.paths["vda"])


@strangers
def test_deadline_beside_a_stranger_ends_with_his_name(
    rig: Rig, method: str, begin: Deed, goes_on: Deed, end: Deed, words: str
) -> None:
    vm = new_vm(rig)
    begin(vm)
    ours = run_alone(rig, vm, method=method, deadline_seconds=2)
    assert ours.end() is Outcome.REFUSED
    assert ours.why().startswith("DeadlineExceeded: not begun before the deadline")
    assert words in ours.why()
    assert goes_on(vm), "the stranger's work was touched"
    assert_nothing_published(rig)
    end(vm)


def test_push_above_a_snapshot_of_somebody_else_needs_no_wait(rig: Rig) -> None:
    vm = rig.vm()
    begin_snapshot(vm)
    before = vm.portrait()
    run = rig.run(vm, method="Push")
    assert run.outcome is Outcome.SUCCEEDED
    assert same_content(rig.location / run.set_path / "vda.qcow2", vm.home / "theirs.snap")
    assert vm.portrait() == before
    assert snapshot_is_there(vm)


@pushing
@pytest.mark.parametrize(("method", "moment"), [("Push", "before BeginPush"), ("Snapshot", "before TakeSnapshot")])
def test_stranger_who_is_a_moment_faster_is_not_touched(rig: Rig, method: str, moment: str) -> None:
    vm = new_vm(rig)
    come: list[str] = []

    def hook(seen: str, _run: object) -> None:
        if seen == moment and not come:
            begin_push(vm)
            come.append(seen)

    backup = rig.backup(vm, method=method, hook=hook)
    wait_until(lambda: come, "the stranger has come")
    wait_until(lambda: backup.seen.attempt > 1 or not backup.thread.is_alive(), "our attempt has failed")
    assert push_runs(vm), "the stranger's job was touched"
    assert rig.sets() == []
    end_push(vm)
    run = backup.end()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert vm.portrait().live["vda"][0] == str(vm.paths["vda"])
    assert rig.debris() == []


@releases
def test_stranger_moves_the_disk_a_moment_before_our_snapshot(rig: Rig) -> None:
    """Our overlay would come above his, and never home to the disk that we know."""
    vm = rig.vm()
    come: list[str] = []

    def hook(seen: str, _run: object) -> None:
        if seen == "before TakeSnapshot" and not come:
            begin_snapshot(vm)
            come.append(seen)

    backup = rig.backup(vm, method="Snapshot", hook=hook)
    wait_until(lambda: backup.seen.attempt > 1 or not backup.thread.is_alive(), "our attempt has failed")
    assert snapshot_is_there(vm)
    assert vm.portrait().live["vda"][0] == str(vm.home / "theirs.snap")
    end_snapshot(vm)
    run = backup.end()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert vm.portrait().live["vda"][0] == str(vm.paths["vda"])
    assert rig.debris() == []


def test_stranger_ends_our_push_with_domjobabort(rig: Rig) -> None:
    vm = new_vm(rig)
    backup = rig.held_push(vm)
    with vm.domain() as domain:
        domain.abortJob()
    wait_until(lambda: backup.seen.attempt == 2, "a new attempt begins")
    run = backup.end()
    assert run.outcome is Outcome.SUCCEEDED
    assert len(rig.sets()) == 1
    assert rig.debris() == []


def test_stranger_reads_our_result_away(rig: Rig) -> None:
    vm = rig.vm()

    def read_away(moment: str, run: object) -> None:
        if moment == "after BeginPush" and run.attempt == 1:  # type: ignore[attr-defined]
            wait_until(lambda: not push_runs(vm), "the push is over")
            with vm.domain() as domain:
                domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)

    run = rig.backup(vm, method="Push", hook=read_away).end()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2), "a result that nobody saw is no success"
    assert len(rig.sets()) == 1
    assert rig.debris() == []


@methods
def test_second_backup_of_the_vm_waits_for_the_first(rig: Rig, method: str) -> None:
    vm = rig.vm(Disk(rig.large_image() if method == "Push" else rig.image("vda", data_mib=6)))
    first = rig.held_push(vm) if method == "Push" else rig.held_copy(vm, max_bytes_per_second="1Mi")
    second = run_alone(rig, vm, method=method)
    second.wait_for(ConditionType.RECONCILING, "another backup of the VM", "is under way")
    if method == "Push":
        vm.slow_down(0)
    assert first.end().outcome is Outcome.SUCCEEDED
    assert second.end() is Outcome.SUCCEEDED, second.why()
    assert len(rig.sets()) == 2
    assert rig.debris() == []


def test_second_backup_that_comes_before_the_first_has_begun_waits_too(rig: Rig) -> None:
    vm = rig.vm()
    second: list[Alone] = []

    def hook(moment: str, _run: object) -> None:
        if moment == "before BeginPush" and not second:
            second.append(run_alone(rig, vm, method="Push"))
            wait_until(lambda: second[0].statuses, "the second one has something to say")

    assert rig.backup(vm, method="Push", hook=hook).end().outcome is Outcome.SUCCEEDED
    assert second[0].end() is Outcome.SUCCEEDED, second[0].why()
    assert len(rig.sets()) == 2


def test_the_stranger_s_qemu_is_asked_for_nothing(rig: Rig) -> None:
    """A held job keeps its speed: nobody but its owner may change it."""
    vm = new_vm(rig)
    begin_push(vm)
    ours = run_alone(rig, vm, method="Push", max_bytes_per_second="1Gi", deadline_seconds=2)
    assert ours.end() is Outcome.REFUSED
    with vm.domain() as domain:
        assert [job["speed"] for job in ask_qemu(domain, "query-block-jobs")] == [65536]
    end_push(vm)
