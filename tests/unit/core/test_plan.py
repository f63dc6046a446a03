"""From a request to a run: which disks, which paths, which formats; and what is refused before anything is touched."""

from dataclasses import replace
from typing import Any

import pytest

from unit.core.scene import (
    BORN,
    NEW_HOST,
    OLD_HOST,
    OVERLAY,
    REBORN,
    T0,
    UID,
    a_disk,
    a_domain,
    absent,
    on_overlay,
    over,
    run_disk,
    spec,
)
from vmbackup.api import names
from vmbackup.api.journal import Freeze, Run, RunDisk
from vmbackup.api.vmbackup import Method, Phase
from vmbackup.core.facts import BackupJob, BlockJob, CompletedJob, DiskFacts, DomainFacts, HostFacts, Image
from vmbackup.core.plan import Request, plan, plan_again, select_disks
from vmbackup.errors import NotYet, Refused
from vmbackup.units import GIB, MIB

CDROM = a_disk(target="sda", device="cdrom", source="/iso/debian.iso", format="raw")
EMPTY_DRIVE = a_disk(target="sdb", device="cdrom", source="", kind="")
SEED = a_disk(target="vdc", readonly=True, format="raw")
NETWORK = a_disk(target="vdd", kind="network", source="rbd:pool/vm1")
TWO = (a_disk(), a_disk(target="vdb"))


def request(attempt: int = 1, **parts: Any) -> Request:
    return Request(
        uid=UID,
        namespace="demo",
        name="first",
        spec=spec(**parts),
        domain="demo_vm1",
        location_path="/backups",
        overlay_directory="/var/lib/vmbackup/overlays",
        started_at=T0 - 60,
        attempt=attempt,
    )


def planned(*disks: DiskFacts, host: HostFacts = NEW_HOST, **parts: Any) -> Run:
    return plan(request(**parts), a_domain(*disks), host, T0)


# -- which disks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disks", "wish", "chosen", "skipped"),
    [
        (TWO, {}, "vda vdb", {}),
        ((*TWO, CDROM, EMPTY_DRIVE, SEED), {}, "vda vdb", {"sda": "removable", "sdb": "empty", "vdc": "read-only"}),
        (TWO, {"exclude": ["vdb"]}, "vda", {"vdb": "excluded"}),
        (TWO, {"include": ["vdb"]}, "vdb", {"vda": "not included"}),
        ((*TWO, NETWORK), {"exclude": ["vdd"]}, "vda vdb", {"vdd": "excluded"}),
        ((*TWO, NETWORK), {"include": ["vda"]}, "vda", {"vdb": "not included", "vdd": "not included"}),
        ((a_disk(), a_disk(target="vdb", transient=True)), {}, "vda", {"vdb": "transient"}),
        ((a_disk(), a_disk(target="vdb", source="", kind="")), {}, "vda", {"vdb": "no source"}),
        ((a_disk(target="vdb", shareable=True),), {}, "vdb", {}),
    ],
)
def test_disks_are_chosen_and_the_others_told_with_the_reason(
    disks: tuple[DiskFacts, ...], wish: dict[str, Any], chosen: str, skipped: dict[str, str]
) -> None:
    taken, left = select_disks(spec(disks=wish), a_domain(*disks))
    assert " ".join(disk.target for disk in taken) == chosen
    assert {disk.target for disk in left} == set(skipped)
    assert all(skipped[disk.target] in disk.reason for disk in left)


@pytest.mark.parametrize(
    ("disks", "wish", "reason", "words"),
    [
        (TWO, {"include": ["vdz"]}, "DiskNotFound", "has no disk vdz; it has vda, vdb"),
        (TWO, {"exclude": ["vdz"]}, "DiskNotFound", "has no disk vdz"),
        (TWO, {"exclude": ["vda", "vdb"]}, "NoDisks", "vda: excluded; vdb: excluded"),
        ((CDROM,), {}, "NoDisks", "removable medium"),
        ((CDROM,), {"include": ["sda"]}, "DiskUnsupported", "Leave it out of spec.disks.include"),
        ((*TWO, NETWORK), {}, "DiskUnsupported", "spec.disks.exclude: [vdd]"),
        ((a_disk(encrypted=True),), {}, "DiskUnsupported", "encrypted"),
        ((a_disk(format="vmdk"),), {}, "DiskUnsupported", "vmdk"),
        ((a_disk(target="vd/../../x"),), {}, "DiskUnsupported", "target name"),
    ],
)
def test_disk_that_must_be_in_the_set_and_cannot_be_is_refused(
    disks: tuple[DiskFacts, ...], wish: dict[str, Any], reason: str, words: str
) -> None:
    with pytest.raises(Refused) as refusal:
        select_disks(spec(disks=wish), a_domain(*disks))
    assert (refusal.value.reason, "demo_vm1" in refusal.value.message) == (reason, True)
    assert words in refusal.value.message


def test_vm_without_disks_is_refused() -> None:
    with pytest.raises(Refused, match="it has no disks"):
        select_disks(spec(), DomainFacts("demo_vm1", "", "running"))


# -- which VM ---------------------------------------------------------------------------------------------------------


def test_vm_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused, match="this node has no VM vm1"):
        plan(request(), absent(), NEW_HOST, T0)


def test_vm_that_is_off_is_waited_for() -> None:
    with pytest.raises(NotYet) as wait:
        plan(request(), a_domain(state="off"), NEW_HOST, T0)
    assert wait.value.reason == "VMNotRunning"


def test_paused_vm_is_backed_up_as_it_stands() -> None:
    assert plan(request(), a_domain(state="paused"), NEW_HOST, T0).instance == BORN


# -- strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
@pytest.mark.parametrize(
    ("domain", "reason", "words"),
    [
        (a_domain(job=BackupJob("outgoing migration")), "ForeignJob", "outgoing migration"),
        (a_domain(a_disk(job=BlockJob("copy"))), "ForeignJob", "disk vda: a copy block job"),
        (a_domain(a_disk(), a_disk(target="vdc", readonly=True, job=BlockJob("pull"))), "ForeignJob", "disk vdc"),
        (a_domain(on_overlay()), "ForeignSnapshot", OVERLAY),
    ],
)
def test_stranger_on_the_vm_is_waited_for_and_named(method: str, domain: DomainFacts, reason: str, words: str) -> None:
    with pytest.raises(NotYet) as wait:
        plan(request(method=method), domain, NEW_HOST, T0)
    assert wait.value.reason == reason
    assert words in wait.value.message


def test_external_snapshot_of_somebody_disturbs_only_the_snapshot_method() -> None:
    domain = a_domain(snapshots=("before-upgrade",))
    with pytest.raises(NotYet, match="before-upgrade"):
        plan(request(method="Snapshot"), domain, NEW_HOST, T0)
    assert plan(request(method="Push"), domain, NEW_HOST, T0).method is Method.PUSH


def test_statistics_of_an_earlier_job_are_no_stranger() -> None:
    assert plan(request(), a_domain(completed=CompletedJob("backup", True)), NEW_HOST, T0).phase is Phase.PREPARING


# -- paths and formats ------------------------------------------------------------------------------------------------


def test_set_is_named_by_namespace_vm_time_backup_and_uid() -> None:
    run = planned()
    assert run.set_path == "demo/vm1/20260921T141320Z-first-7b0f3c51"
    assert run.partial_path == f"demo/vm1/.20260921T141320Z-first-7b0f3c51.{UID}.1.partial"


def test_vm_is_named_in_the_set_as_its_user_names_it() -> None:
    assert planned(source={"name": "Web.1"}).set_path.startswith("demo/Web.1/")


BLOCK = a_disk(kind="block", source="/dev/vg/vm1", format="raw")
CHAIN = replace(a_disk(), backing=(Image("/images/golden.qcow2", "qcow2", "file"),))
RAW = a_disk(source="/images/vda.img", format="raw")


@pytest.mark.parametrize(
    ("disk", "method", "image", "kind"),
    [
        (a_disk(), "Snapshot", "vda.qcow2", "file"),
        (RAW, "Snapshot", "vda.raw", "file"),
        (CHAIN, "Snapshot", "vda.qcow2", "file"),
        (replace(CHAIN, format="raw"), "Snapshot", "vda.qcow2", "file"),
        (BLOCK, "Snapshot", "vda.qcow2", "block"),
        (a_disk(), "Push", "vda.qcow2", "file"),
        (RAW, "Push", "vda.qcow2", "file"),
        (BLOCK, "Push", "vda.qcow2", "block"),
    ],
    ids=["qcow2", "raw", "chain", "raw chain", "block", "push qcow2", "push raw", "push block"],
)
def test_format_of_the_image_in_the_set(disk: DiskFacts, method: str, image: str, kind: str) -> None:
    found = planned(disk, method=method).disks[0]
    assert (found.image, found.image_format) == (image, image.split(".")[1])
    assert (found.source, found.source_format, found.source_kind) == (disk.source, disk.format, kind)
    assert found.backing == tuple(layer.path for layer in disk.backing)


def test_overlay_of_a_file_lies_beside_it_and_that_of_a_block_device_in_our_directory() -> None:
    name = names.overlay_name(UID, 1, "vda")
    assert planned(method="Snapshot").disks[0].overlay == f"/images/{name}"
    assert planned(BLOCK, method="Snapshot").disks[0].overlay == f"/var/lib/vmbackup/overlays/{name}"
    assert planned(method="Push").disks[0].overlay == ""


@pytest.mark.parametrize("target", ["vda", "sdaa", "vd_A-1", "xvda"])
def test_overlay_of_every_allowed_target_is_known_again(target: str) -> None:
    overlay = planned(a_disk(target=target), method="Snapshot").disks[0].overlay
    assert names.overlay_uid(overlay.rpartition("/")[2]) == UID


def test_no_name_of_an_attempt_is_used_again() -> None:
    first = planned(method="Snapshot")
    assert first.phase is Phase.PREPARING
    again = plan_again(first.model_copy(update={"attempt": 2}), a_domain(), NEW_HOST, T0)
    assert again.set_path == first.set_path, "so this test says more than the time of day"
    assert again.partial_path != first.partial_path
    assert again.disks[0].overlay != first.disks[0].overlay


def test_what_a_copy_occupies_is_never_more_than_the_disk() -> None:
    assert planned(a_disk(allocated_bytes=5 * GIB, virtual_bytes=GIB)).disks[0].allocated_bytes == GIB
    assert planned(a_disk(allocated_bytes=8 * MIB)).disks[0].allocated_bytes == 8 * MIB


# -- the next attempt -------------------------------------------------------------------------------------------------


def test_next_attempt_begins_anew_but_keeps_the_time_and_what_was_left_behind() -> None:
    used = planned(method="Snapshot").model_copy(
        update={
            **over(),
            "phase": Phase.ASSIGNED,
            "attempt": 2,
            "outcome": None,
            "began": True,
            "made": True,
            "named": True,
            "limited": True,
            "freeze": Freeze.OVER,
            "thaw_tries": 3,
            "tries": 4,
            "overlay_at": T0,
            "disks": (run_disk(copied=True, verified=True, commits=3, pivot_instance=BORN),),
            "left": "Not removed: /images/x",
        }
    )
    fresh = plan_again(used, a_domain(instance=REBORN), OLD_HOST, T0 + 100)
    assert (fresh.attempt, fresh.started_at, fresh.attempt_started_at) == (2, T0 - 60, T0 + 100)
    assert (fresh.instance, fresh.libvirt_version, fresh.left) == (REBORN, "7.0.0", "Not removed: /images/x")
    assert (fresh.phase, fresh.failure, fresh.freeze) == (Phase.PREPARING, None, Freeze.NOT_TRIED)
    assert not any((fresh.began, fresh.made, fresh.named, fresh.limited, fresh.tries, fresh.thaw_tries))
    assert fresh.overlay_at is None
    assert fresh.disks == (
        RunDisk(
            **{**run_disk().model_dump(), "overlay": f"/images/{names.overlay_name(UID, 2, 'vda')}"},
        ),
    )


def test_daemon_that_was_updated_between_two_attempts_may_take_another_method() -> None:
    old = planned(host=OLD_HOST)
    assert old.method is Method.SNAPSHOT
    assert plan_again(old.model_copy(update={"attempt": 2}), a_domain(), NEW_HOST, T0 + 10).method is Method.PUSH
