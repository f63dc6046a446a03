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
from walk.world import World

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


FULL = {"record": Failed(Reason.STORE_ERROR, "no space left for the journal", heals=True)}
TORN = {steps.StartCopy: "I/O error", steps.StartVerification: "I/O error"}
FATE: dict[str, tuple[Blow, Blow]] = {
    "agent": (kill_agent, nothing),
    "daemon": (lambda world, _: world.hypervisor.kill_daemon(), lambda world, _: world.hypervisor.start_daemon()),
    "guest": (kill_guest, start_guest),
    "guest paused": (set_("domain", "paused", True), set_("domain", "paused", False)),
    "guest agent": (lose_guest_agent, lambda world, _: setattr(world.domain.guest, "agent", True)),
    "job dies": (kill_job, nothing),
    "ghost": (haunt, nothing),
    "stranger": (send_stranger, set_("domain", "foreign_job", None)),
    "location hidden": (set_("store", "away", "/backups does not answer"), set_("store", "away", "")),
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
BLOWS = FATE | REFUSALS

Fate = list[tuple[int, str, int]]  # turn, blow, how hard and how many turns long
fates: st.SearchStrategy[Fate] = st.lists(
    st.tuples(st.integers(1, LAST_TURN - 20), st.sampled_from([*FATE, *FATE, *REFUSALS]), st.integers(1, 20)),
    min_size=1,
    max_size=6,
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


@settings(max_examples=60, deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(METHODS), fates)
@example(Method.SNAPSHOT, [(12, "journal full", 20), (14, "guest", 6), (20, "agent", 1)])
@example(Method.PUSH, [(8, "agent", 6), (9, "journal full", 12)])
def test_everything_at_random(method: Method, fate: Fate) -> None:
    note(f"{method}: {fate}")
    world = World(method)
    check(world, suffer(world, fate))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("blow", BLOWS)
def test_one_blow_at_some_turns(method: Method, blow: str) -> None:
    for turn in (3, 6, 9, 12, 15, 19, 24):
        world = World(method)
        check(world, suffer(world, [(turn, blow, 5)]))
