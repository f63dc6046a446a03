"""A set, a store of images and a libvirt in memory; one restore walks through them, and fate may strike anywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fakes.clock import FakeClock
from vmbackup.api.manifest import Manifest, ManifestDisk
from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_journal import NEW_VM_KINDS, RestoreRun
from vmbackup.api.restore_spec import VMRestoreSpec
from vmbackup.api.vmbackup import Method, Outcome
from vmbackup.core.facts import BlockJob, DiskFacts, DomainFacts, Wishes, Work
from vmbackup.core.restore_facts import (
    Define,
    Flatten,
    FlushDisks,
    Heartbeat,
    Place,
    Prepare,
    Release,
    RemoveDomain,
    RemoveFiles,
    RestoreDomainStep,
    RestoreFacts,
    RestoreFiles,
    RestorePorts,
    RestoreStoreStep,
    ResumeDomain,
    StartDomain,
    StartPull,
    Swap,
    SwapBack,
    WriteProof,
)
from vmbackup.core.restore_plan import RestoreRequest, SetFacts, plan_restore
from vmbackup.core.steps import StartCopy, StartVerification, StopWorks
from vmbackup.errors import NotYet, VMBackupError
from vmbackup.restoring import Turn, take_turn
from vmbackup.units import MIB

UID = "7b0f3c51-0000-4000-8000-000000000001"
OWN_UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
TARGETS = ("vda", "vdb")
TURNS_MAX = 3000
KINDS: dict[RestoreKind, dict[str, Any]] = {
    RestoreKind.NEW_DOMAIN: {"newDomain": {"name": "back", "start": True}},
    RestoreKind.DISKS: {"disks": {}},
    RestoreKind.IN_PLACE: {"inPlace": {"overwrite": True, "start": True}},
    RestoreKind.INSTANT: {"instant": {"name": "back"}},
    RestoreKind.PROOF: {"proof": {"serialPattern": "login:", "bootSeconds": 60}},
}


class Crash(BaseException):
    """The agent dies here."""


@dataclass
class Disk:
    """One image. `own`: which content the VM's own file has. `holes`: it looks complete, and lacks data."""

    made: bool = False
    own: str = "old"
    kept: bool = False  # the old image has a second name
    used: bool = False  # QEMU has the old image open
    header_flat: bool = False
    durable: bool = False
    pulling: int = 0

    @property
    def holes(self) -> bool:
        return self.header_flat and not self.durable


@dataclass
class RestoreWorld:
    """`strike_at`: the agent dies at the n-th effect (before or after any act or record)."""

    kind: RestoreKind
    strike_at: int = 0
    each_turn: Callable[["RestoreWorld", int], None] = lambda _world, _turn: None
    errors: dict[type, VMBackupError] = field(default_factory=dict)
    comes_up: bool = True
    started_before_swap: str = ""  # of this disk, after the last look

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.effects = self.crashes = 0
        self.disks = {target: Disk() for target in TARGETS}
        self.held = self.working = self.placed = False
        self.state = "off" if self.kind is RestoreKind.IN_PLACE else "absent"
        self.persistent = self.kind is RestoreKind.IN_PLACE
        self.away = ""
        self.proof_written = False
        self.works: dict[str, Work] = {}
        self.turns_left: dict[str, int] = {}
        self.records: dict[str, RestoreRun] = {}
        self.wish = Wishes()
        self.last: RestoreRun | None = None
        self.started_on_holes = False
        self.serial = ""
        self.ports = RestorePorts(_Domains(self), _Store(self), _Journal(self), _Ledger(self), self.clock)

    def effect(self) -> None:
        self.effects += 1
        if self.effects == self.strike_at:
            raise Crash

    def begin(self) -> RestoreRun:
        disks = tuple(
            ManifestDisk(
                target=target, file=f"{target}.qcow2", format="qcow2", virtual_bytes=64 * MIB, stored_bytes=MIB,
                sha256="0" * 64, source=f"/images/{target}.qcow2",
            )
            for target in TARGETS
        )  # fmt: skip
        manifest = Manifest(
            backup_name="first", backup_namespace="demo", backup_uid="b1", vm="vm1", domain="demo_vm1",
            domain_uuid=OWN_UUID, node="n", method=Method.PUSH, method_reason="", quiesced=True,
            point_in_time="2026-11-23T06:00:00Z", started="", published="", verified="Checksum",
            libvirt_version="", hypervisor_version="", operator_version="", disks=disks,
        )  # fmt: skip
        found = SetFacts("demo/vm1/set", manifest, dict.fromkeys(TARGETS, MIB))
        spec = {"source": {"backup": "first"}, "target": KINDS[self.kind]}
        request = RestoreRequest(
            uid=UID, namespace="demo", name="back", spec=VMRestoreSpec.model_validate(spec), location="local",
            location_path="/backups", images_path="/images", started_at=self.clock.now(),
        )  # fmt: skip
        run = plan_restore(request, found, [], self.domain_facts("demo_vm1", OWN_UUID))
        self.records[run.uid] = run
        return run

    def domain_facts(self, name: str, uuid: str) -> DomainFacts:
        disks = tuple(
            DiskFacts(
                target, source=f"/images/{target}.qcow2", format="qcow2",
                job=BlockJob("pull", 1, 2) if disk.pulling else None,
            )
            for target, disk in self.disks.items()
        )  # fmt: skip
        return DomainFacts(name, uuid, self.state, persistent=self.persistent, disks=disks)  # type: ignore[arg-type]

    def walk(self) -> RestoreRun:
        """Take turns until the restore is over; after a crash go on from the journal, as a restarted agent does."""
        turn = Turn(self.begin())
        self.effects = 0
        for count in range(TURNS_MAX):
            self.each_turn(self, count)
            try:
                turn = take_turn(self.ports, turn)
            except Crash:
                self.crashes += 1
                self.works.clear()
                self.clock.advance(1.0)
                turn = Turn(self.records[UID])
            if turn.wait_seconds is None:
                return turn.run
            self.clock.advance(turn.wait_seconds + 0.01)
        raise AssertionError(f"not over after {TURNS_MAX} turns: {turn.run.phase} {turn.run.trouble}")

    # -- fate ---------------------------------------------------------------------------------------------------

    def kill_qemu(self) -> None:
        """QEMU dies: what it had not written down is lost, a transient domain is gone."""
        if self.state not in ("running", "paused"):
            return
        self.state = "off" if self.persistent else "absent"
        for disk in self.disks.values():
            disk.pulling = 0

    def start_on_disks(self) -> None:
        """Its owner starts the VM: QEMU opens what has the name now."""
        self.state = "running"
        for disk in self.disks.values():
            disk.used = disk.own == "old"

    # -- what must hold at the end ------------------------------------------------------------------------------

    def assert_end(self, run: RestoreRun) -> None:
        """Nothing of ours is left, the first VM's disks are whole, and the result is there exactly on success."""
        assert run.phase is RestorePhase.DONE
        assert not self.held
        assert not self.working
        assert not self.started_on_holes
        assert self.state != "paused"
        won = run.outcome is Outcome.SUCCEEDED
        if self.kind is RestoreKind.IN_PLACE:
            assert {disk.own for disk in self.disks.values()} == {"new" if won else "old"}
            assert not any(disk.kept or disk.made for disk in self.disks.values())
            return
        assert self.placed == (won and self.kind is not RestoreKind.PROOF)
        if self.kind in NEW_VM_KINDS:
            there = won and self.kind is not RestoreKind.PROOF
            assert (self.state != "absent") == there
            assert self.persistent == there
        if self.kind is RestoreKind.INSTANT and won:
            assert all(disk.header_flat and disk.durable for disk in self.disks.values())

    def effects_of_a_good_walk(self) -> int:
        twin = RestoreWorld(self.kind)
        twin.walk()
        return twin.effects


class _Part:
    def __init__(self, world: RestoreWorld) -> None:
        self.world = world


class _Journal(_Part):
    def record(self, run: RestoreRun) -> None:
        self.world.effect()
        self.world.records[run.uid] = run
        self.world.effect()

    def forget(self, run: RestoreRun) -> None:
        self.world.records.pop(run.uid, None)

    def runs(self) -> list[RestoreRun]:
        return list(self.world.records.values())


class _Ledger(_Part):
    def report(self, run: RestoreRun, _facts: RestoreFacts) -> None:
        self.world.last = run

    def wishes(self, _run: RestoreRun) -> Wishes:
        return self.world.wish


class _Domains(_Part):
    def observe(self, run: RestoreRun) -> DomainFacts:
        world = self.world
        if world.away:
            raise NotYet("HypervisorAway", world.away)
        for disk in world.disks.values():
            if disk.pulling:
                disk.pulling -= 1
                disk.header_flat = disk.pulling == 0
        if world.state == "running" and world.comes_up:
            world.serial += "."
        return world.domain_facts(run.domain, run.domain_uuid)

    def heartbeat(self, _run: RestoreRun) -> Heartbeat:
        return Heartbeat(read_bytes=512)

    def perform(self, run: RestoreRun, step: RestoreDomainStep) -> None:
        world = self.world
        world.effect()
        if world.away:
            raise NotYet("HypervisorAway", world.away)
        if type(step) in world.errors:
            raise world.errors[type(step)]
        match step:
            case Define():
                world.persistent = True
                world.state = "off" if world.state == "absent" else world.state
            case StartDomain():
                assert world.state != "absent" or run.kind in (RestoreKind.INSTANT, RestoreKind.PROOF)
                world.started_on_holes |= any(disk.holes for disk in world.disks.values())
                world.state = "running"
            case StartPull(target):
                world.disks[target].pulling = 3
            case FlushDisks():
                world.state = "paused"
                world.effect()
                for disk in world.disks.values():
                    disk.durable = disk.header_flat
                world.state = "running"
            case ResumeDomain():
                world.state = "running"
            case RemoveDomain():
                world.state, world.persistent = "absent", False
        world.effect()


class _Store(_Part):
    def observe(self, _run: RestoreRun) -> RestoreFiles:
        world = self.world
        for target, work in world.works.items():
            if work.state == "running":
                world.turns_left[target] -= 1
                if world.turns_left[target] <= 0:
                    world.works[target] = Work(work.kind, "done")
                    if world.last is not None and world.last.phase is RestorePhase.PULLING:
                        world.disks[target].header_flat = world.disks[target].durable = True
        tail = "login:" if len(world.serial) > 5 else world.serial
        return RestoreFiles(
            working=world.working,
            placed=world.placed,
            swapped=frozenset(target for target, disk in world.disks.items() if disk.kept and not disk.made),
            used=frozenset(target for target, disk in world.disks.items() if disk.used and world.state == "running"),
            flat=frozenset(target for target, disk in world.disks.items() if disk.header_flat),
            works=dict(world.works),
            serial_tail=tail,
        )

    def perform(self, run: RestoreRun, step: RestoreStoreStep) -> None:  # noqa: C901, PLR0912 - a table
        world = self.world
        world.effect()
        if type(step) in world.errors:
            raise world.errors[type(step)]
        match step:
            case Prepare():
                world.held = True
                world.working = run.kind is not RestoreKind.IN_PLACE
            case StartCopy(target):
                world.disks[target].made = run.kind is RestoreKind.IN_PLACE
                self._start(target, "copy")
            case StartVerification(target):
                self._start(target, "verify")
            case Flatten(target):
                assert world.state == "absent"
                self._start(target, "copy")
            case StopWorks():
                world.works.clear()
            case Place():
                world.works.clear()
                world.working, world.placed = False, True
            case Swap(target):
                disk = world.disks[target]
                if target == world.started_before_swap and world.state == "off":
                    world.start_on_disks()
                disk.kept = True
                world.effect()
                disk.made, disk.own = False, "new"
            case SwapBack(target):
                disk = world.disks[target]
                disk.kept, disk.own = False, "old"
            case Release():
                for disk in world.disks.values():
                    disk.kept = False
                world.held = False
            case RemoveFiles():
                for disk in world.disks.values():
                    disk.made, disk.kept = False, disk.own == "new"
                world.working = world.placed = world.held = False
                world.works.clear()
            case WriteProof():
                world.proof_written = True
        world.effect()

    def _start(self, target: str, kind: Any) -> None:
        self.world.works[target] = Work(kind, "running")
        self.world.turns_left[target] = 2
