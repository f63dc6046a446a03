"""Which disks of a VM are in the set and which are not, and that nothing but the VM's own images is ever written."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.libvirt.machines import same_content
from integration.libvirt.releases import everywhere, methods, pushing, releases
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from testbed.guests import Disk, Options
from testbed.images import loop_device, overlay_image
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome
from vmbackup.errors import Refused
from vmbackup.units import MIB


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def skipped(run: Run) -> dict[str, str]:
    return {disk.target: disk.reason for disk in run.skipped}


@pytest.fixture
def device(rig: Rig) -> Iterator[Path]:
    """A block device with data."""
    with loop_device(rig.image("device", "raw")) as path:
        yield path


# -- sources ----------------------------------------------------------------------------------------------------------


@everywhere
def test_block_device_becomes_a_sparse_image(rig: Rig, device: Path, method: str) -> None:
    vm = rig.vm(Disk(device, format="raw"))
    before = vm.portrait()
    run = rig.run(vm, method=method)
    published = assert_published(rig, run)
    assert vm.portrait() == before
    image = published / "vda.qcow2"
    assert same_content(image, device)
    if method == "Snapshot":  # QEMU's push stores the zeros of a block device: it asks the device, not the data
        assert image.stat().st_blocks * 512 < 32 * MIB, "the zeros of the device were stored"


@everywhere
def test_golden_image_is_never_written_and_the_set_needs_it_no_more(rig: Rig, method: str) -> None:
    golden = rig.image("golden", data_mib=16)
    vm = rig.vm(Disk(overlay_image(rig.disks / "vda.qcow2", golden)))
    vm.writes("vda", 20 * MIB, MIB)
    before, content = vm.portrait(), digest(golden)
    assert before.live["vda"][1:] == [str(golden)]
    run = rig.run(vm, method=method)
    published = assert_published(rig, run)
    assert digest(golden) == content, "the golden image was written"
    assert vm.portrait() == before
    assert same_content(published / "vda.qcow2", vm.paths["vda"])


@everywhere
def test_chain_of_three_images_is_flattened_and_stays_as_it_is(rig: Rig, method: str) -> None:
    bottom = rig.image("bottom")
    middle = overlay_image(rig.disks / "middle.qcow2", bottom)
    vm = rig.vm(Disk(overlay_image(rig.disks / "top.qcow2", middle)))
    vm.writes("vda", 2 * MIB, MIB)
    before, content = vm.portrait(), [digest(bottom), digest(middle)]
    published = assert_published(rig, rig.run(vm, method=method))
    assert [digest(bottom), digest(middle)] == content
    assert vm.portrait() == before
    assert same_content(published / "vda.qcow2", vm.paths["vda"])


@methods
def test_raw_golden_image_below_qcow2(rig: Rig, method: str) -> None:
    golden = rig.image("golden", "raw")
    vm = rig.vm(Disk(overlay_image(rig.disks / "vda.qcow2", golden, "raw")))
    before, content = vm.portrait(), digest(golden)
    published = assert_published(rig, rig.run(vm, method=method))
    assert digest(golden) == content
    assert vm.portrait() == before
    assert same_content(published / "vda.qcow2", vm.paths["vda"])


@methods
def test_what_the_guest_writes_after_the_point_in_time_is_not_in_the_set(rig: Rig, method: str) -> None:
    first = rig.large_image() if method == "Push" else rig.image("a")
    second = rig.image("b", "raw")
    copies = {"vda": rig.disks / "before.qcow2", "vdb": rig.disks / "before.raw"}
    copies["vda"].write_bytes(first.read_bytes())
    copies["vdb"].write_bytes(second.read_bytes())
    vm = rig.vm(Disk(first, "vda"), Disk(second, "vdb", "raw"))
    backup = rig.held_push(vm) if method == "Push" else rig.held_copy(vm, max_bytes_per_second="4Mi")
    for target in vm.paths:
        vm.writes(target, 0, 4 * MIB)
    if method == "Push":
        vm.slow_down(0)
    published = assert_published(rig, backup.end())
    for target, copy in copies.items():
        image = published / backup.first.disk(target).image
        assert same_content(image, copy)
        assert not same_content(image, vm.paths[target]), "the guest's writes are lost"


# -- the choice -------------------------------------------------------------------------------------------------------


@everywhere
def test_drives_and_read_only_disks_are_left_out_with_the_reason(rig: Rig, method: str) -> None:
    vm = rig.vm(
        Disk(rig.image("a")),
        Disk(rig.image("iso", "raw"), "sda", "raw", device="cdrom"),
        Disk(None, "sdb", "raw", device="cdrom"),
        Disk(rig.image("tools", "raw"), "vdb", "raw", read_only=True),
    )
    before = vm.portrait()
    run = rig.run(vm, method=method)
    assert_published(rig, run)
    assert [disk.target for disk in run.disks] == ["vda"]
    assert skipped(run) == {
        "sda": "removable medium (cdrom)",
        "sdb": "the drive is empty",
        "vdb": "the disk is read-only",
    }
    assert vm.portrait() == before


@pushing
def test_shareable_disk_is_pushed_and_auto_knows_that_only_push_can(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("a", "raw"), format="raw"), Disk(rig.image("b", "raw"), "vdb", "raw", shareable=True))
    run = rig.run(vm, method="Auto")
    published = assert_published(rig, run)
    for disk in run.disks:
        assert same_content(published / disk.image, vm.paths[disk.target])


@pytest.mark.parametrize(("release", "method"), [("7.0", "Auto"), ("7.0", "Snapshot"), ("9.0", "Snapshot")])
def test_snapshot_of_a_shareable_disk_is_refused_before_anything_is_touched(rig: Rig, method: str) -> None:
    vm = rig.vm(Disk(rig.image("a", "raw"), format="raw"), Disk(rig.image("b", "raw"), "vdb", "raw", shareable=True))
    before = vm.portrait()
    with pytest.raises(Refused, match="disk vdb is shareable") as refusal:
        rig.run(vm, method=method)
    assert refusal.value.reason == "MethodUnsupported"
    assert vm.portrait() == before


@releases
def test_snapshot_beside_a_shareable_disk_that_is_left_out(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("a", "raw"), format="raw"), Disk(rig.image("b", "raw"), "vdb", "raw", shareable=True))
    before = vm.portrait()
    run = rig.run(vm, method="Snapshot", disks={"exclude": ["vdb"]})
    published = assert_published(rig, run)
    assert same_content(published / "vda.raw", vm.paths["vda"])
    assert vm.portrait() == before


def test_transient_disk_is_left_out_by_push_with_the_reason(rig: Rig) -> None:
    path = rig.image("scratch", "raw")
    vm = rig.vm(Disk(rig.image("a")), Disk(path, "vdb", "raw"), edit=make_transient)
    before = vm.portrait()
    run = rig.run(vm, method="Push")
    assert_published(rig, run)
    assert skipped(run) == {"vdb": "the disk is transient: libvirt drops its content when the VM stops"}
    assert vm.portrait() == before


def make_transient(xml: str) -> str:
    at = xml.rindex("</disk>")
    return f"{xml[:at]}<transient/>{xml[at:]}"


@everywhere
@pytest.mark.parametrize("choice", [{"include": ["vdb"]}, {"exclude": ["vda", "vdc"]}])
def test_only_the_chosen_disk_is_copied_and_no_other_touched(
    rig: Rig, method: str, choice: dict[str, list[str]]
) -> None:
    vm = rig.vm(*(Disk(rig.image(target), target) for target in ("vda", "vdb", "vdc")))
    before = vm.portrait()
    run = rig.run(vm, method=method, disks=choice)
    published = assert_published(rig, run)
    assert same_content(published / "vdb.qcow2", vm.paths["vdb"])
    assert set(skipped(run)) == {"vda", "vdc"}
    assert set(skipped(run).values()) == {"not included" if "include" in choice else "excluded"}
    assert vm.portrait() == before


@pytest.mark.parametrize(
    ("choice", "reason", "words"),
    [
        ({"include": ["vdz"]}, "DiskNotFound", "has no disk vdz; it has sda, vda"),
        ({"exclude": ["vdz"]}, "DiskNotFound", "has no disk vdz; it has sda, vda"),
        ({"exclude": ["vda"]}, "NoDisks", "no disk is left to back up (vda: excluded; sda: the drive is empty)"),
        ({"include": ["sda"]}, "DiskUnsupported", "disk sda: the drive is empty"),
    ],
)
def test_choice_that_cannot_be_served_is_refused(
    rig: Rig, choice: dict[str, list[str]], reason: str, words: str
) -> None:
    vm = rig.vm(Disk(rig.image("a")), Disk(None, "sda", "raw", device="cdrom"))
    before = vm.portrait()
    with pytest.raises(Refused) as refusal:
        rig.run(vm, disks=choice)
    assert refusal.value.reason == reason
    assert words in refusal.value.message
    assert vm.portrait() == before
    assert_nothing_published(rig)


@methods
def test_many_disks_are_one_set(rig: Rig, method: str) -> None:
    with ExitStack() as devices:
        letters = "abcdefgh"
        paths = [
            rig.image(f"d{letter}", "raw" if at % 2 else "qcow2", mib=16, data_mib=2)
            for at, letter in enumerate(letters)
        ]
        paths[3] = devices.enter_context(loop_device(paths[3]))
        disks = [Disk(path, f"vd{letters[at]}", "raw" if at % 2 else "qcow2") for at, path in enumerate(paths)]
        vm = rig.vm(*disks, options=Options(memory_mib=32))
        before = vm.portrait()
        run = rig.run(vm, method=method)
        assert run.outcome is Outcome.SUCCEEDED
        published = assert_published(rig, run)
        for disk in run.disks:
            assert same_content(published / disk.image, vm.paths[disk.target])
        assert vm.portrait() == before
        rig.vms.pop().remove()
