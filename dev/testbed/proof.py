"""Proofs that a published set is what it claims to be, made with the tools of others."""

import json
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from testbed.errors import TestbedError
from testbed.images import qemu_img, sequence_numbers

PARTITION_BYTES = 1 << 20  # where the file system of the test guest begins


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `words`: what was seen, and how."""

    good: bool
    words: str


@dataclass(frozen=True)
class Set:
    """A published set. `directory` is absolute."""

    directory: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> "Set":
        """Raises TestbedError when there is no manifest."""
        try:
            return cls(directory, json.loads((directory / "manifest.json").read_text()))
        except OSError as error:
            raise TestbedError(f"{directory} is no published set: {error}") from error

    def image(self, target: str) -> Path:
        files = {disk["target"]: disk["file"] for disk in self.manifest["disks"]}
        return self.directory / str(files[target])


def sources(uri: str, domain: str) -> dict[str, str]:
    """Return what `virsh domblklist` shows: the file of every disk that has one, by target."""
    return _sources(uri, domain, 0)


def identical(backup: Set, disks: dict[str, str]) -> Iterator[Finding]:
    """Compare every image with the disk it is a copy of; only for a VM that writes nothing, which may run."""
    for disk in backup.manifest["disks"]:
        image, source = backup.directory / disk["file"], disks[disk["target"]]
        compared = _run("qemu-img", "compare", "-U", str(image), source)
        said = (compared.stdout + compared.stderr).strip()
        yield Finding(
            compared.returncode == 0,
            f"{disk['target']}: {said} The VM is idle: its disk is still as it was then. (qemu-img compare)",
        )


def one_point_in_time(backup: Set, before: int, after: int) -> Finding:
    """Look at the numbers that the guest writes to its disks A and B in turn, for ever.

    before, after: the number on A when the backup was asked for, and when it was over.
    """
    a, b = sequence_numbers(backup.image("vda"), backup.image("vdb"))
    words = f"the guest's rising number is {a:,} on vda and {b:,} on vdb: "
    if not b <= a <= b + 1:
        return Finding(False, words + "the images are of two different moments")
    if not before <= a <= after:
        return Finding(False, f"{words}not between {before:,} and {after:,}, which it wrote meanwhile")
    return Finding(True, f"{words}one moment; it was {before:,} when asked for and is {after:,} now")


def clean_file_system(backup: Set, target: str) -> Finding:
    """Check the ext4 file system in an image, on a copy: its journal is replayed first, as a mount would."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="vmbackup-fsck-") as directory:
        raw = Path(directory) / "disk.raw"
        qemu_img("convert", "-O", "raw", str(backup.image(target)), str(raw))
        at = f"{raw}?offset={PARTITION_BYTES}"
        _run("e2fsck", "-y", "-E", "journal_only", at)
        checked = _run("e2fsck", "-f", "-n", at)
    said = (checked.stdout.strip() or checked.stderr.strip() or "nothing said").splitlines()[-1].partition("?")[0]
    counts = re.search(r"(\d+/\d+ files).*?(\d+/\d+ blocks)", checked.stdout)
    if checked.returncode or not counts:
        return Finding(False, f"{target}: e2fsck ended with {checked.returncode}: {said}")
    return Finding(True, f"{target}: its file system is whole: {counts[1]}, {counts[2]} (e2fsck -f)")


def checksums(backup: Set) -> Finding:
    checked = _run("sha256sum", "--check", "--quiet", "SHA256SUMS", cwd=backup.directory)
    count = len((backup.directory / "SHA256SUMS").read_text().splitlines())
    if checked.returncode:
        return Finding(False, f"SHA256SUMS: {checked.stdout.strip()} {checked.stderr.strip()}")
    return Finding(True, f"SHA256SUMS: all {count} files are as written (sha256sum --check)")


def home(uri: str, domain: str, before: dict[str, str]) -> Finding:
    """See that the VM runs on the disks that it had before, now and after its next start, with no job left."""
    for flags, when in ((0, "now"), (libvirt.VIR_DOMAIN_XML_INACTIVE, "after its next start")):
        seen = _sources(uri, domain, flags)
        if seen != before:
            return Finding(False, f"{domain} is not on its own disks {when}: {seen} instead of {before}")
    connection = libvirt.open(uri)
    try:
        found = connection.lookupByName(domain)
        jobs = [target for target in before if found.blockJobInfo(target)]
        if not found.isActive() or jobs or found.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            return Finding(False, f"{domain} does not run freely: active {found.isActive()}, jobs {jobs}")
    finally:
        connection.close()
    listed = ", ".join(f"{target} {Path(path).name}" for target, path in before.items())
    return Finding(True, f"{domain} runs on its own disks, no job is left: {listed} (virsh domblklist)")


def _sources(uri: str, domain: str, flags: int) -> dict[str, str]:
    connection = libvirt.open(uri)
    try:
        description = ET.fromstring(connection.lookupByName(domain).XMLDesc(flags))  # noqa: S314 - from our own daemon
    finally:
        connection.close()
    found = {}
    for disk in description.iterfind("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is not None and target is not None:
            found[str(target.get("dev"))] = str(source.get("file") or source.get("dev"))
    return found


def _run(*command: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
