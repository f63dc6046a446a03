"""Guests and makers of images who want a file of the host in their backup set, on real libvirt and QEMU."""

import json
import struct
from pathlib import Path

import pytest

from attack.libvirt.conftest import found_in
from integration.libvirt.releases import everywhere
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published
from testbed.guests import Disk
from testbed.images import disk_image, overlay_image, qemu_img
from unit.store.test_sources import qcow2
from vmbackup.api.manifest import Manifest
from vmbackup.api.vmbackup import Outcome
from vmbackup.units import MIB


@everywhere
@pytest.mark.parametrize("trick", ["backing", "json", "data file"])
def test_guest_dresses_its_raw_disk_up_as_an_image_over_a_host_file(
    rig: Rig, shadow: Path, method: str, trick: str
) -> None:
    """Who guesses the format of such a disk reads the host file for the guest; the set says raw, and is raw."""
    disk = disk_image(rig.disks / "vda.raw", "raw", 4 * MIB, MIB)
    name = {"backing": str(shadow), "json": json.dumps({"driver": "file", "filename": str(shadow)}), "data file": ""}
    header = qcow2(
        rig.place / "header",
        backing=name[trick],
        backing_format="raw" if name[trick] else "",
        features=1 << 2 if trick == "data file" else 0,
        virtual_bytes=4096,
    )
    with disk.open("r+b") as stream:
        stream.write(header.read_bytes())
    vm = rig.vm(Disk(disk, format="raw"))
    before = vm.portrait()
    run = rig.run(vm, method=method)
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    (published,) = rig.sets()
    (shown,) = Manifest.model_validate_json((published / "manifest.json").read_bytes()).disks
    assert (shown.format, shown.virtual_bytes) == ("qcow2" if method == "Push" else "raw", 4 * MIB)
    assert found_in(rig.location) == []
    plain = rig.place / "restored"
    qemu_img("convert", "-f", shown.format, "-O", "raw", str(published / shown.file), str(plain))
    assert plain.read_bytes() == disk.read_bytes()
    assert vm.portrait() == before


@pytest.mark.parametrize("below", ["{0}", 'json:{{"driver":"file","filename":"{0}"}}'])
def test_header_that_changes_after_the_vm_has_started(rig: Rig, shadow: Path, below: str) -> None:
    """libvirt shows what it found at the start. Where the header names something else by now, nothing is read."""
    golden = rig.image("golden")
    image = overlay_image(rig.disks / "vda.qcow2", golden)
    vm = rig.vm(Disk(image))
    before = vm.portrait()
    name = below.format(shadow)
    header = bytearray(image.read_bytes()[:65536])
    at = 4096  # behind the header's extensions, in its first cluster
    header[8:20] = struct.pack(">QI", at, len(name))
    header[at : at + len(name)] = name.encode()
    with image.open("r+b") as stream:
        stream.write(header)
    run = rig.run(vm, method="Snapshot")
    assert not run.began
    assert run.failure is not None
    assert "its header names" in run.failure.message
    assert_nothing_published(rig)
    assert vm.portrait() == before
