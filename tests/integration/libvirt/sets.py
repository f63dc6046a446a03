"""What a published set must be."""

import json
from pathlib import Path

from integration.libvirt.rig import NAMESPACE, Rig
from testbed.images import qemu_img
from vmbackup.api.journal import Run
from vmbackup.api.manifest import Manifest
from vmbackup.api.vmbackup import Outcome, Verify


def assert_published(rig: Rig, run: Run) -> Path:
    """See that the location holds this one set, whole and nothing else; return its directory."""
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    published = rig.location / run.set_path
    assert rig.sets() == [published]
    assert rig.debris() == []
    assert published.parent == rig.location / NAMESPACE / run.vm
    sums = ["SHA256SUMS"] if run.spec.verify is Verify.CHECKSUM else []
    wanted = sorted([*(disk.image for disk in run.disks), "domain.xml", "manifest.json", *sums])
    assert sorted(path.name for path in published.iterdir()) == wanted
    assert {oct(path.stat().st_mode & 0o7777) for path in published.iterdir()} == {"0o600"}
    manifest = Manifest.model_validate_json((published / "manifest.json").read_bytes())
    assert (manifest.backup_uid, manifest.vm, manifest.domain_uuid) == (run.uid, run.vm, run.domain_uuid)
    assert [disk.target for disk in manifest.disks] == [disk.target for disk in run.disks]
    for disk in manifest.disks:
        assert_whole(published / disk.file, disk.format, disk.virtual_bytes)
    return published


def assert_whole(image: Path, image_format: str, virtual_bytes: int) -> None:
    """See that an image opens by itself, refers to no other file, and is consistent."""
    info = json.loads(qemu_img("info", "-f", image_format, "--output=json", str(image)))
    assert info["virtual-size"] == virtual_bytes
    assert "backing-filename" not in info
    if image_format == "qcow2":
        qemu_img("check", "-q", "-f", "qcow2", str(image))


def assert_nothing_published(rig: Rig) -> None:
    """See that neither a set nor anything unfinished is there."""
    assert rig.sets() == []
    assert rig.debris() == []
