"""Where the bytes go: a full location, a full file system beside the disk, and one that can clone."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.libvirt.engine import Hook
from integration.libvirt.machines import same_content
from integration.libvirt.releases import methods
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from testbed.guests import Disk
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome
from vmbackup.units import MIB


@pytest.fixture
def small(rig: Rig) -> Iterator[Path]:
    """A file system of 160 MiB that holds the location."""
    root = rig.move_to("small")
    yield root
    for file in root.glob("filler*"):
        file.unlink()


def fill(file_system: Path, leave_mib: int) -> None:
    free = subprocess.run(
        ["stat", "-f", "-c", "%a %S", str(file_system)], check=True, capture_output=True, text=True
    ).stdout.split()
    take = int(free[0]) * int(free[1]) - leave_mib * MIB
    subprocess.run(["fallocate", "-l", str(take), str(file_system / "filler")], check=True)


def fill_at(moment: str, file_system: Path, leave_mib: int) -> Hook:
    def hook(seen: str, run: Run) -> None:
        if seen == moment and run.attempt == 1 and not (file_system / "filler").exists():
            fill(file_system, leave_mib)

    return hook


@pytest.mark.parametrize(("method", "moment"), [("Push", "before BeginPush"), ("Snapshot", "before StartCopy")])
def test_location_runs_full_in_mid_copy(rig: Rig, small: Path, method: str, moment: str) -> None:
    vm = rig.vm(Disk(rig.image("vda", mib=128, data_mib=100)))
    before = vm.portrait()
    run = rig.backup(vm, method=method, hook=fill_at(moment, small, 40)).end()
    assert run.outcome is Outcome.FAILED, "Refused would say that the VM was not touched"
    assert run.failure is not None
    assert run.failure.reason == "NotEnoughSpace"
    assert re.search(r"are left in|has .* free", run.failure.message)
    assert "nothing was touched" not in run.failure.message
    assert_nothing_published(rig)
    assert vm.portrait() == before, "the guest was paused, or is not on its disk"


@methods
def test_location_without_room_is_refused_before_anything_is_touched(rig: Rig, small: Path, method: str) -> None:
    fill(small, 64)
    vm = rig.vm(Disk(rig.image("vda", mib=128, data_mib=100)))
    before = vm.portrait()
    backup = rig.backup(vm, method=method)
    run = backup.end()
    assert run.outcome is Outcome.REFUSED
    assert run.failure is not None
    assert run.failure.reason == "NotEnoughSpace"
    assert "the disks hold 100." in run.failure.message
    assert "nothing was touched" in run.failure.message
    assert not run.began
    assert_nothing_published(rig)
    assert list(rig.location.iterdir()) == []
    assert vm.portrait() == before


def test_no_room_for_an_overlay_beside_the_disk_is_refused_before_the_snapshot(rig: Rig) -> None:
    rig.move_to("small", disks=True)
    vm = rig.vm(Disk(rig.image("vda", data_mib=4)))
    before = vm.portrait()
    run = rig.run(vm, method="Snapshot")
    assert run.outcome is Outcome.REFUSED
    assert run.failure is not None
    assert run.failure.reason == "NotEnoughSpace"
    assert not run.began, "the snapshot was taken"
    assert_nothing_published(rig)
    assert vm.portrait() == before


@pytest.mark.parametrize("release", ["9.0", "7.0"])
@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_on_a_file_system_that_can_the_copy_is_a_clone(rig: Rig, image_format: str) -> None:
    rig.move_to("reflink", disks=True)
    rig.move_to("reflink")
    vm = rig.vm(Disk(rig.image("vda", image_format, data_mib=24), format=image_format))
    before = vm.portrait()
    run = rig.run(vm, method="Snapshot")
    published = assert_published(rig, run)
    image = published / f"vda.{image_format}"
    assert same_content(image, vm.paths["vda"])
    assert shared_mib(image) >= 24, "the data was copied, not cloned"
    assert vm.portrait() == before


def shared_mib(path: Path) -> int:
    """Return how much of a file shares its blocks with another file."""
    listed = subprocess.run(["filefrag", "-v", "-b4096", str(path)], check=True, capture_output=True, text=True).stdout
    lines = [line.split(":") for line in listed.splitlines() if "shared" in line]
    return sum(int(fields[3]) for fields in lines) * 4096 // MIB
