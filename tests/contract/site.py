"""A place where the hypervisor contract is tried: in memory or on a real daemon. What tests may ask of each."""

import itertools
import posixpath
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vmbackup.api import names
from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Method, VMBackupSpec
from vmbackup.core.facts import DomainFacts
from vmbackup.core.ports import Hypervisor
from vmbackup.core.steps import BeginPush, StartCommit
from vmbackup.errors import NotYet
from vmbackup.units import MIB

DEADLINE_SECONDS = 60
GUEST_WRITES_BYTES = 60 * MIB
numbers = itertools.count(1)


@dataclass(frozen=True)
class Wish:
    """One disk of a VM to be made. `golden`: it lies on an image that other VMs share. `large`: can be held."""

    target: str = "vda"
    format: str = "qcow2"
    golden: bool = False
    shareable: bool = False
    empty_cdrom: bool = False
    large: bool = False


class Site(Protocol):
    """Where VMs are made, and fate is played. Paths are absolute."""

    hypervisor: Hypervisor
    can_push: bool

    def new_vm(self, *wishes: Wish, persistent: bool = True) -> Run:
        """Make and start a VM and return a run for it, with an empty directory to write to."""

    def new_vm_without_room(self) -> Run:
        """Make a VM whose guest writes until the file system of its disk is full, and QEMU pauses it for that."""

    def make_room(self, run: Run) -> None:
        """Let the write that has failed succeed when it is done again."""

    def begin_held(self, run: Run, step: BeginPush | StartCommit | None = None) -> None:
        """Do a step (by default begin the run's push) whose job does not end by itself before `let_go`."""

    def let_go(self, run: Run) -> None: ...
    def guest_writes(self, run: Run, target: str) -> None: ...
    def kill_qemu(self, run: Run) -> None: ...
    def start_guest(self, run: Run) -> None: ...
    def pause_guest(self, run: Run) -> None: ...
    def kill_daemon(self) -> None: ...
    def start_daemon(self) -> None: ...
    def end_push_unseen(self, run: Run) -> None:
        """Let the running push job end while the daemon is dead."""

    def begin_foreign_push(self, run: Run) -> None: ...
    def begin_foreign_copy(self, run: Run, target: str) -> None: ...
    def exists(self, path: str) -> bool: ...
    def put_file(self, path: str) -> None: ...
    def fingerprint(self, path: str) -> object:
        """Return something that changes when the file is written."""

    def same_content(self, source: str, copy: str) -> bool: ...


def targets_of(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((disk.target, f"{run.location_path}/{run.partial_path}/{disk.image}") for disk in run.disks)


def overlays_of(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((disk.target, disk.overlay) for disk in run.disks)


def wait_until(site: Site, run: Run, condition: Callable[[DomainFacts], bool]) -> DomainFacts:
    """Look until the condition holds. Raises AssertionError after a minute."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    seen: object = None
    while True:
        try:
            seen = facts = site.hypervisor.observe(run)
            if condition(facts):
                return facts
        except NotYet as reason:  # a QEMU that is just ending cannot be asked
            seen = reason
        assert time.monotonic() < deadline, f"not reached: {seen}"
        time.sleep(0.02)


def make_run(domain: str, uuid: str, location: str, disks: tuple[RunDisk, ...], number: int) -> Run:
    """Return a run as the planner would have made it, as far as a hypervisor is concerned."""
    uid = f"00000000-0000-4000-8000-{number:012d}"
    placed = tuple(
        disk.model_copy(
            update={"overlay": f"{posixpath.dirname(disk.source)}/{names.overlay_name(uid, 1, disk.target)}"}
        )
        for disk in disks
    )
    return Run(
        uid=uid,
        namespace="team-a",
        name=f"backup-{number}",
        domain=domain,
        domain_uuid=uuid,
        vm=domain.partition("_")[2],
        instance="",
        spec=VMBackupSpec.model_validate({"source": {"name": "vm"}, "location": "here"}),
        location_path=location,
        overlay_directory=location,
        set_path=f"team-a/vm/set-{number}",
        method=Method.AUTO,
        method_reason="",
        disks=placed,
        started_at=0.0,
        attempt_started_at=0.0,
    )


def run_disk(wish: Wish, source: str, golden: str) -> RunDisk:
    return RunDisk(
        target=wish.target,
        source=source,
        source_kind="file",
        source_format=wish.format,
        backing=(golden,) if wish.golden else (),
        inactive_source=source,
        virtual_bytes=64 * MIB,
        image=f"{wish.target}.qcow2",
        image_format="qcow2",
    )
