"""Images that are made to harm: headers that name files of the host, and headers that are nonsense.

Headers are written by whoever made an image; an image in the set, by whoever can write to the location.
"""

import os
import random
import resource
import struct
from pathlib import Path

import pytest

from attack.store.conftest import secrets_in
from fakes.sample import disk_of, ended, partial_of, run_of
from integration.store.tools import qcow2 as real_qcow2
from unit.store.test_sources import qcow2
from vmbackup.api.journal import Run
from vmbackup.core.facts import Work
from vmbackup.core.steps import MakeDirectory, StartCopy, StartVerification
from vmbackup.errors import Failed
from vmbackup.store import verifying
from vmbackup.store.directories import Directories
from vmbackup.store.journal import NodeJournal
from vmbackup.store.qcow2 import read_header
from vmbackup.units import GIB, MIB

PLACEHOLDER = "@" * 12


def with_backing(path: Path, name: bytes) -> Path:
    """Write a qcow2 header whose backing file has a name of any bytes."""
    stand_in = "@" * len(name)
    qcow2(path, backing=stand_in, backing_format="raw")
    path.write_bytes(path.read_bytes().replace(stand_in.encode(), name))
    return path


def verified(store: Directories, run: Run) -> Work:
    store.perform(run, StartVerification("vda"))
    return ended(store, run)


@pytest.fixture
def pushed(store: Directories, location: Path) -> Run:
    """A run whose image lies in the working directory, where others may have been."""
    disk = disk_of("/nowhere", format_="qcow2", virtual_bytes=64 * MIB, image="vda.qcow2")
    run = run_of(location, disk, method="Push")
    store.perform(run, MakeDirectory())
    return run


# -- files of the host --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "{0}",
        "../shadow",
        "file:{0}",
        'json:{{"driver":"raw","file":{{"driver":"file","filename":"{0}"}}}}',
        "nbd:unix:{0}",
    ],
)
@pytest.mark.parametrize("shown", [False, True])
def test_header_that_names_a_file_of_the_host(
    store: Directories, location: Path, images: Path, shadow: Path, name: str, shown: bool
) -> None:
    """Whether libvirt shows a golden image below or nothing: what the header names instead is not read."""
    golden = images / "golden.qcow2"
    golden.touch()
    top = with_backing(images / "top.qcow2", name.format(shadow).encode())
    disk = disk_of(top, format_="qcow2", backing=(str(golden),) if shown else ())
    with pytest.raises(Failed, match="its header names"):
        store.perform(run_of(location, disk), MakeDirectory())
    assert secrets_in(location) == []


def test_header_that_is_swapped_between_the_look_and_the_copy(
    store: Directories, location: Path, images: Path, shadow: Path
) -> None:
    golden = real_qcow2(images / "golden.qcow2", "1M")
    top = real_qcow2(images / "top.qcow2", "1M", backing=golden)
    run = run_of(location, disk_of(top, format_="qcow2", backing=(str(golden),), virtual_bytes=MIB))
    store.perform(run, MakeDirectory())
    with_backing(top, str(shadow).encode())
    store.perform(run, StartCopy("vda"))
    assert ended(store, run).state == "failed"
    assert secrets_in(location) == []


@pytest.mark.parametrize("trick", ["backing", "json backing", "data file"])
def test_image_in_the_set_that_names_a_file_of_the_host(
    store: Directories, pushed: Run, shadow: Path, trick: str
) -> None:
    image = partial_of(pushed) / "vda.qcow2"
    if trick == "data file":
        qcow2(image, features=1 << 2, virtual_bytes=64 * MIB)
    else:
        name = str(shadow) if trick == "backing" else f'json:{{"driver":"file","filename":"{shadow}"}}'
        with_backing(image, name.encode())
    work = verified(store, pushed)
    assert work.state == "failed"
    assert "refers to another file" in work.error


def test_image_in_the_set_whose_header_changes_after_the_look(
    store: Directories, pushed: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """qemu-img is told that nothing lies below: it opens nothing, so its words do not tell which files there are."""
    probe = images / "does-this-exist"
    real_qcow2(partial_of(pushed) / "vda.qcow2", "64M", backing=real_qcow2(probe, "64M"))
    probe.unlink()
    honest = read_header(os.open(real_qcow2(images / "honest.qcow2", "64M"), os.O_RDONLY))
    monkeypatch.setattr(verifying, "read_header", lambda _file: honest)
    work = verified(store, pushed)
    assert str(probe) not in work.error
    assert work.state == "done"


@pytest.mark.parametrize("content", [b"", b"x" * 4096, b"QFI\xfb" + bytes(20) + b"\xff" * 3000])
def test_nvram_of_a_domain_that_is_a_file_of_the_host(
    location: Path, tmp_path: Path, shadow: Path, content: bytes
) -> None:
    if content:
        shadow.write_bytes(content)
    store = Directories(domain_xml=lambda _run: f"<domain><os><nvram>{shadow}</nvram></os></domain>", wake=lambda: None)
    (tmp_path / "vda.img").touch()
    run = run_of(location, disk_of(tmp_path / "vda.img"))
    store.perform(run, MakeDirectory())
    assert sorted(path.name for path in partial_of(run).iterdir()) == [".owner", "domain.xml"]
    assert secrets_in(location) == []


# -- nonsense -----------------------------------------------------------------------------------------------------


def test_header_cut_at_every_byte_is_an_error_in_words(store: Directories, location: Path, images: Path) -> None:
    whole = qcow2(images / "whole.qcow2", backing=PLACEHOLDER, backing_format="raw").read_bytes()
    top = images / "top.qcow2"
    for length in range(300):
        top.write_bytes(whole[:length])
        with pytest.raises(Failed, match="was not copied"):
            store.perform(run_of(location, disk_of(top, format_="qcow2")), MakeDirectory())


@pytest.mark.parametrize("name", [b"\0", b"/etc/\0shadow", b"\xff\xfe", b"\x1b]0;pwned\x07", b"a\nb", b"\xe2\x80\xae"])
@pytest.mark.parametrize("shown", [False, True])
def test_name_in_a_header_neither_breaks_the_record_nor_steers_a_terminal(
    store: Directories, location: Path, images: Path, tmp_path: Path, name: bytes, shown: bool
) -> None:
    golden = images / "golden.qcow2"
    golden.touch()
    top = with_backing(images / "top.qcow2", name)
    run = run_of(location, disk_of(top, format_="qcow2", backing=(str(golden),) if shown else ()))
    with pytest.raises(Failed) as caught:
        store.perform(run, MakeDirectory())
    assert caught.value.message.isprintable()
    journal = NodeJournal(tmp_path / "state")
    journal.record(run.model_copy(update={"trouble": caught.value.message}))
    assert journal.runs()[0].trouble == caught.value.message


def test_manifest_nested_without_end_is_no_manifest(store: Directories, location: Path, images: Path) -> None:
    """It lies where our owner file was: looking at the location must not end the run, whose VM is on its way home."""
    (images / "vda.img").touch()
    run = run_of(location, disk_of(images / "vda.img"))
    store.perform(run, MakeDirectory())
    (partial_of(run) / ".owner").unlink()
    (partial_of(run) / "manifest.json").write_text("[" * 1_000_000)
    assert not store.observe(run).partial
    with pytest.raises(Failed, match="does not belong to this backup"):
        store.perform(run, MakeDirectory())


FIELDS = {  # offset and length in the header, and what is written there
    "cluster bits": (20, struct.pack(">I", 63)),
    "virtual size": (24, struct.pack(">Q", 2**63 - 512)),
    "crypt method": (32, struct.pack(">I", 2)),
    "L1 size": (36, struct.pack(">I", 0xFFFFFFFF)),
    "L1 offset": (40, struct.pack(">Q", 2**63)),
    "refcount table offset": (48, struct.pack(">Q", 2**62)),
    "refcount table clusters": (56, struct.pack(">I", 0xFFFFFFFF)),
    "snapshots": (60, struct.pack(">IQ", 0xFFFFFFFF, 65536)),
    "unknown feature": (72, struct.pack(">Q", 1 << 60)),
    "refcount order": (96, struct.pack(">I", 255)),
    "header length": (100, struct.pack(">I", 0xFFFFFFF8)),
}


@pytest.mark.parametrize("field", FIELDS)
def test_field_out_of_all_bounds_is_a_failed_verification(store: Directories, pushed: Run, field: str) -> None:
    image = real_qcow2(partial_of(pushed) / "vda.qcow2", "64M", "write -P 1 0 4M")
    at, value = FIELDS[field]
    with image.open("r+b") as stream:
        stream.seek(at)
        stream.write(value)
    work = verified(store, pushed)
    assert work.state == "failed"
    assert work.error.startswith("vda.qcow2: ")
    assert len(work.error) < 5000


def test_random_damage_costs_bounded_memory_and_always_ends(store: Directories, pushed: Run) -> None:
    """A hundred images, each with some bytes of its metadata changed, against the real qemu-img."""
    image = partial_of(pushed) / "vda.qcow2"
    whole = real_qcow2(image, "64M", "write -P 1 0 1M", "write -P 2 32M 1M").read_bytes()
    chance = random.Random(20261123)  # noqa: S311 - damage, no secret
    states = set()
    for _ in range(100):
        spoilt = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            spoilt[chance.choice([chance.randrange(112), chance.randrange(len(whole))])] = chance.randrange(256)
        image.write_bytes(spoilt)
        work = verified(store, pushed)
        states.add(work.state)
        assert "Traceback" not in work.error
    assert states == {"done", "failed"}
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak_bytes < GIB


def test_image_of_exabytes_of_holes_costs_no_memory(store: Directories, pushed: Run) -> None:
    image = real_qcow2(partial_of(pushed) / "vda.qcow2", "64M", "write -P 1 0 1M")
    length = next(1 << bits for bits in range(62, 30, -1) if can_have_length(image, 1 << bits))
    work = verified(store, pushed)
    assert work.state in ("done", "failed")
    assert image.stat().st_size == length
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < GIB


def can_have_length(path: Path, length: int) -> bool:
    try:
        os.truncate(path, length)
    except OSError:
        return False
    return True
