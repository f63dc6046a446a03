import fcntl
import os
import struct
from pathlib import Path

import pytest

from fakes.sample import DOMAIN_XML, disk_of, ended, partial_of, run_of
from vmbackup.api.journal import RunDisk
from vmbackup.api.vmbackup import Method
from vmbackup.core.steps import MakeDirectory, StartCopy
from vmbackup.errors import Failed
from vmbackup.store.directories import Directories


def qcow2(
    path: Path, backing: str = "", backing_format: str = "", features: int = 0, virtual_bytes: int = 1 << 20
) -> Path:
    """Write a qcow2 header without clusters: enough for all that reads headers only."""
    extensions = b""
    if backing_format:
        text = backing_format.encode()
        extensions = struct.pack(">II", 0xE2792ACA, len(text)) + text.ljust((len(text) + 7) // 8 * 8, b"\0")
    extensions += struct.pack(">II", 0, 0)
    name_at = 104 + len(extensions) if backing else 0
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, name_at, len(backing), 16, virtual_bytes).ljust(72, b"\0")
    header += struct.pack(">QQQII", features, 0, 0, 4, 104) + extensions + backing.encode()
    path.write_bytes(header.ljust(65536, b"\0"))
    return path


def refused(location: Path, disk: RunDisk, *roots: Path) -> str:
    """Return why the snapshot method refuses the disk before the VM is touched."""
    store = Directories(
        domain_xml=lambda _run: DOMAIN_XML, wake=lambda: None, image_roots=[str(root) for root in roots]
    )
    run = run_of(location, disk)
    with pytest.raises(Failed) as caught:
        store.perform(run, MakeDirectory())
    assert caught.value.reason == "CopyFailed"
    assert not caught.value.heals
    assert caught.value.message.startswith("VM team-a_vm1, disk vda: ")
    assert not partial_of(run).exists()
    return caught.value.message


def test_link_in_place_of_the_base_is_refused(location: Path, source: Path) -> None:
    link = source.parent / "link.img"
    link.symlink_to(source)
    assert "it is a link" in refused(location, disk_of(link))


def test_link_that_is_swapped_in_after_the_snapshot_fails_the_copy(
    store: Directories, location: Path, source: Path
) -> None:
    run = run_of(location, disk_of(source))
    store.perform(run, MakeDirectory())
    source.unlink()
    source.symlink_to("/etc/hostname")
    store.perform(run, StartCopy("vda"))
    work = ended(store, run)
    assert work.state == "failed"
    assert "it is a link" in work.error


@pytest.mark.parametrize("path", ["relative.img", "/srv/../etc/hostname"])
def test_path_that_is_not_plain_is_refused(location: Path, path: str) -> None:
    assert "not absolute and plain" in refused(location, disk_of(path))


def test_base_outside_of_the_image_roots_is_refused(location: Path, source: Path, tmp_path: Path) -> None:
    assert "not below an allowed image root" in refused(location, disk_of(source), tmp_path / "other")


def test_link_to_a_directory_does_not_lead_around_the_image_roots(location: Path, source: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "way-out").symlink_to(source.parent)
    message = refused(location, disk_of(allowed / "way-out" / source.name), allowed)
    assert f"{source} is not below an allowed image root" in message


def test_base_below_an_image_root_is_accepted(location: Path, source: Path) -> None:
    store = Directories(
        domain_xml=lambda _run: DOMAIN_XML, wake=lambda: None, image_roots=["/nowhere", str(source.parent)]
    )
    run = run_of(location, disk_of(source))
    store.perform(run, MakeDirectory())
    assert store.observe(run).partial


def test_push_needs_no_access_to_the_disks(store: Directories, location: Path) -> None:
    run = run_of(location, disk_of("/not/here.img"), method=Method.PUSH)
    store.perform(run, MakeDirectory())
    assert store.observe(run).partial


def test_directory_and_pipe_as_base_are_refused(location: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a regular file nor a block device" in refused(location, disk_of(tmp_path))
    assert "neither a regular file nor a block device" in refused(location, disk_of(tmp_path / "pipe"))


def test_file_that_was_a_block_device_is_refused(location: Path, source: Path) -> None:
    assert "no longer the block" in refused(location, disk_of(source, source_kind="block"))


def test_header_that_names_another_backing_file_is_refused(location: Path, tmp_path: Path) -> None:
    (tmp_path / "golden.qcow2").touch()
    (tmp_path / "secret").touch()
    top = qcow2(tmp_path / "top.qcow2", backing=str(tmp_path / "secret"), backing_format="raw")
    disk = disk_of(top, format_="qcow2", backing=(str(tmp_path / "golden.qcow2"),))
    assert f"names {tmp_path}/secret below it, but libvirt showed {tmp_path}/golden.qcow2" in refused(location, disk)


def test_backing_file_that_libvirt_does_not_show_is_refused(location: Path, tmp_path: Path) -> None:
    top = qcow2(tmp_path / "top.qcow2", backing="/etc/hostname", backing_format="raw")
    assert "names /etc/hostname below it, but libvirt showed nothing" in refused(
        location, disk_of(top, format_="qcow2")
    )


def test_backing_file_by_a_relative_name_is_the_same(store: Directories, location: Path, tmp_path: Path) -> None:
    golden = qcow2(tmp_path / "golden.qcow2")
    top = qcow2(tmp_path / "top.qcow2", backing="golden.qcow2", backing_format="qcow2")
    run = run_of(location, disk_of(top, format_="qcow2", backing=(str(golden),)))
    store.perform(run, MakeDirectory())
    assert store.observe(run).partial


def test_backing_format_is_never_guessed(location: Path, tmp_path: Path) -> None:
    golden = qcow2(tmp_path / "golden.qcow2")
    top = qcow2(tmp_path / "top.qcow2", backing=str(golden))
    disk = disk_of(top, format_="qcow2", backing=(str(golden),))
    assert "does not tell the format" in refused(location, disk)


def test_external_data_file_is_refused(location: Path, tmp_path: Path) -> None:
    top = qcow2(tmp_path / "top.qcow2", features=1 << 2)
    assert "external data file" in refused(location, disk_of(top, format_="qcow2"))


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb\0\0\0\x09" + bytes(200), b"x" * 512])
def test_image_that_is_no_qcow2_is_refused(location: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vda.qcow2"
    path.write_bytes(content)
    assert "was not copied" in refused(location, disk_of(path, format_="qcow2"))


def test_base_that_another_process_writes_fails_the_copy(store: Directories, location: Path, source: Path) -> None:
    run = run_of(location, disk_of(source))
    store.perform(run, MakeDirectory())
    with source.open("r+b") as writer:
        # QEMU's mark of a writer: a shared lock on byte 101
        fcntl.fcntl(writer, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 101, 1, 0))
        store.perform(run, StartCopy("vda"))
        work = ended(store, run)
    assert work.state == "failed"
    assert f"{source} is open for writing in another process" in work.error
