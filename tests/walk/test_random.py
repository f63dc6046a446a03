"""Whatever happens, in whatever order, and whenever: when it is over the VM comes home and no lie was told."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Method, Outcome
from vmbackup.core import steps
from vmbackup.core.facts import Wishes
from vmbackup.errors import Failed, NotYet
from vmbackup.tick import sweep
from walk.witness import Witness
from walk.world import UID, World

METHODS = (Method.PUSH, Method.SNAPSHOT)
LAST_TURN = 70
ERRORS = (
    Failed(Reason.HYPERVISOR_ERROR, "said no", heals=True),
    Failed(Reason.HYPERVISOR_ERROR, "said never"),
    NotYet(Reason.HYPERVISOR_AWAY, "cut off"),
)
HYPERVISOR_STEPS = (
    steps.DrainStatistics,
    steps.FreezeGuest,
    steps.ThawGuest,
    steps.BeginPush,
    steps.AbortJob,
    steps.TakeSnapshot,
    steps.StartCommit,
    steps.Pivot,
)
STORE_STEPS = (
    steps.MakeDirectory,
    steps.StartCopy,
    steps.RemoveOverlay,
    steps.StartVerification,
    steps.Publish,
    steps.Discard,
)

Blow = Callable[[World, int], None]  # what fate does to a world; how hard


def kill_agent(world: World, size: int) -> None:
    world.strike_at = world.effects + size


def kill_guest(world: World, _size: int) -> None:
    if world.domain.alive:
        world.domain.kill_qemu()


def start_guest(world: World, _size: int) -> None:
    if not world.domain.alive:
        if not world.domain.persistent:
            redefine(world, 0)  # who starts a VM without a definition knows of no overlay
        world.domain.restart_guest()


def lose_guest_agent(world: World, _size: int) -> None:
    if not world.domain.guest.frozen:
        world.domain.guest.agent = False


def kill_job(world: World, _size: int) -> None:
    if world.domain.push:
        world.domain.fail_push()
    for disk in world.domain.disks:
        if disk.job:
            world.domain.fail_commit(disk.target)


def haunt(world: World, _size: int) -> None:
    if world.domain.push:
        world.domain.become_ghost()


def send_stranger(world: World, size: int) -> None:
    if not world.domain.push and world.domain.alive:
        targets = {"vda": "/elsewhere/vda.qcow2"} if size % 2 else {}
        world.domain.start_foreign_job("backup" if size % 3 else "outgoing migration", targets)


def set_(port: str, name: str, value: Any) -> Blow:
    return lambda world, _size: setattr(getattr(world, port), name, value)


def wish(**wishes: bool) -> Blow:
    def blow(world: World, _size: int) -> None:
        now = world.ledger.wish
        world.ledger.wish = Wishes(
            now.cancel or wishes.get("cancel", False),
            now.deleted or wishes.get("deleted", False),
            wishes.get("stopping", now.stopping),
        )

    return blow


def refuse(port: str, step: type, when: str) -> Blow:
    def blow(world: World, size: int) -> None:
        getattr(getattr(world, port), when)[step] = [ERRORS[size % 3]] * (1 + size // 4)

    return blow


def nothing(_world: World, _size: int) -> None:
    """What cannot be taken back."""


def redefine(world: World, _size: int) -> None:
    """Somebody defines the VM anew, with XML of his own that knows the disks only."""
    for disk in world.domain.disks:
        disk.inactive_source = world.sources[disk.target]


def undefine(world: World, _size: int) -> None:
    world.domain.persistent = False


def merge_by_hand(world: World, _size: int) -> None:
    """Somebody takes the VM home himself."""
    for disk in world.domain.disks:
        if world.domain.alive and disk.source != world.sources[disk.target]:
            if disk.job is None:
                world.domain.start_commit(disk.target, world.sources[disk.target], uid=UID)
            world.domain.advance()
            world.domain.pivot(disk.target, uid=UID)


def silence(world: World, _size: int) -> None:
    world.store.away, world.store.silent = "/backups has not answered for 3 seconds", True


def speak(world: World) -> None:
    world.store.away, world.store.silent = "", False


FULL = {"record": Failed(Reason.STORE_ERROR, "no space left for the journal", heals=True)}
TORN = {steps.StartCopy: "I/O error", steps.StartVerification: "I/O error"}
FATE: dict[str, tuple[Blow, Blow]] = {
    "agent": (kill_agent, nothing),
    "daemon": (lambda world, _: world.hypervisor.kill_daemon(), lambda world, _: world.hypervisor.start_daemon()),
    "guest": (kill_guest, start_guest),
    "guest paused": (set_("domain", "paused", True), set_("domain", "paused", False)),
    "I/O error": (set_("domain", "paused_by_io_error", True), nothing),
    "guest agent": (lose_guest_agent, lambda world, _: setattr(world.domain.guest, "agent", True)),
    "job dies": (kill_job, nothing),
    "ghost": (haunt, nothing),
    "stranger": (send_stranger, set_("domain", "foreign_job", None)),
    "location hidden": (set_("store", "away", "/backups does not answer"), set_("store", "away", "")),
    "location silent": (silence, lambda world, _: speak(world)),
    "location in trouble": (set_("store", "problem", "/backups is read-only"), set_("store", "problem", "")),
    "location full": (set_("store", "free_bytes", 0), set_("store", "free_bytes", 10**12)),
    "disks full": (set_("store", "overlay_free_bytes", 0), set_("store", "overlay_free_bytes", 10**12)),
    "works fail": (set_("store", "work_errors", TORN), set_("store", "work_errors", {})),
    "journal full": (set_("journal", "errors", FULL), set_("journal", "errors", {})),
    "agent ends": (wish(stopping=True), wish(stopping=False)),
    "cancelled": (wish(cancel=True), nothing),
    "deleted": (wish(deleted=True), nothing),
}
REFUSALS = {
    f"{step.__name__} {when}": (refuse(port, step, when), nothing)
    for port, kinds in (("hypervisor", HYPERVISOR_STEPS), ("store", STORE_STEPS))
    for step in kinds
    for when in ("errors", "errors_after")
}
MEDDLING = {
    "redefined": (redefine, nothing),
    "undefined": (undefine, nothing),
    "merged by hand": (merge_by_hand, nothing),
}
BLOWS = FATE | REFUSALS | MEDDLING

Fate = list[tuple[int, str, int]]  # turn, blow, how hard and how many turns long


def fates(*blows: str) -> st.SearchStrategy[Fate]:
    turns = st.integers(1, LAST_TURN - 20)
    return st.lists(st.tuples(turns, st.sampled_from(blows), st.integers(1, 20)), min_size=1, max_size=6)


RANDOM = settings(
    max_examples=60, deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)


def suffer(world: World, fate: Fate) -> Run:
    """Walk through a fate, with a guest that writes all the time. It is over after LAST_TURN turns."""
    witness = Witness(world)

    def each_turn(world: World, turn: int) -> None:
        for at, blow, size in fate:
            if turn == at:
                BLOWS[blow][0](world, size)
            if turn == at + size:
                BLOWS[blow][1](world, size)
        if turn < LAST_TURN:
            witness.write()

    world.each_turn = each_turn
    return world.walk()


def check(world: World, run: Run) -> None:
    for _, mend in BLOWS.values():
        mend(world, 0)
    assert run.outcome is not None
    assert run.outcome is Outcome.SUCCEEDED or run.failure is not None
    if run.debris:
        assert any(sweep(world.ports, run) for _ in range(9)), "what is left is removed later"
    for path in [path for path in world.hypervisor.files if path in run.left]:
        del world.hypervisor.files[path]  # what was told to a human is done by one
    world.assert_home(run)


@RANDOM
@given(st.sampled_from(METHODS), fates(*FATE, *FATE, *REFUSALS))
@example(Method.SNAPSHOT, [(12, "journal full", 20), (14, "guest", 6), (20, "agent", 1)])
@example(Method.PUSH, [(8, "agent", 6), (9, "journal full", 12)])
def test_everything_at_random(method: Method, fate: Fate) -> None:
    note(f"{method}: {fate}")
    world = World(method)
    check(world, suffer(world, fate))


@RANDOM
@given(fates("guest", "guest", "agent", "daemon", "works fail", "cancelled", "Pivot errors", *MEDDLING, *MEDDLING))
@example([(12, "redefined", 1), (13, "guest", 4)])
@example([(17, "Pivot errors", 8), (17, "redefined", 1), (19, "guest", 3)])
@example([(11, "undefined", 1), (20, "guest", 4)])
def test_somebody_meddles_at_random(fate: Fate) -> None:
    """What he has torn apart we leave to a human, and say so; the witness sees that we make nothing worse."""
    note(f"{fate}")
    world = World(Method.SNAPSHOT)
    run = suffer(world, fate)
    if run.outcome is Outcome.STRANDED:
        assert run.failure is not None
        assert "demo_vm1" in run.failure.message
        assert not world.store.sets
        return
    assert run.outcome is Outcome.SUCCEEDED or run.failure is not None
    assert [disk.source for disk in world.domain.disks] == list(world.sources.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("blow", FATE | REFUSALS)
def test_one_blow_at_some_turns(method: Method, blow: str) -> None:
    for turn in (3, 8, 12, 17, 24):
        world = World(method)
        check(world, suffer(world, [(turn, blow, 5)]))
