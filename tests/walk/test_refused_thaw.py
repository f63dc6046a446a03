"""The guest's agent refuses to thaw for a long time: the limits hold meanwhile, and the VM comes home."""

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, Outcome
from vmbackup.core import steps
from vmbackup.core.facts import Wishes
from vmbackup.errors import Failed
from walk.test_long_ways import status
from walk.world import World

REFUSED = Failed(Reason.FREEZE_FAILED, "agent is not connected")


def refusing_world(method: Method, spec: dict[str, object], times: int) -> World:
    """Return a world whose guest is frozen until so many thaws were refused; nobody else thaws it."""
    world = World(method, spec)
    world.hypervisor.errors[steps.ThawGuest] = [REFUSED] * times
    world.domain.guest.let_watchdog_bark = lambda: None  # type: ignore[method-assign]
    return world


def grow(world: World, _turn: int) -> None:
    for disk in world.domain.disks:
        if disk.source.endswith(".overlay"):
            world.hypervisor.files[disk.source] += 1_000_000


def run_out(world: World, _turn: int) -> None:
    on_overlay = any(disk.source.endswith(".overlay") for disk in world.domain.disks)
    world.store.overlay_free_bytes = 0 if on_overlay else 10**12


def stop(world: World, _turn: int) -> None:
    if any(disk.source.endswith(".overlay") for disk in world.domain.disks):
        world.ledger.wish = Wishes(cancel=True)


@pytest.mark.parametrize(
    ("spec", "fate", "reason"),
    [
        ({"overlay": {"maxBytes": "20Gi", "maxSeconds": 10}}, lambda _world, _turn: None, Reason.OVERLAY_LIMIT),
        ({"overlay": {"maxBytes": "8Mi", "maxSeconds": 1800}}, grow, Reason.OVERLAY_LIMIT),
        ({}, run_out, Reason.OVERLAY_LIMIT),
        ({"deadlineSeconds": 5}, lambda _world, _turn: None, Reason.DEADLINE_EXCEEDED),
        ({}, stop, Reason.CANCELLED),
    ],
    ids=["overlay-too-old", "overlay-too-large", "no-room-beside-it", "deadline", "cancelled"],
)
def test_vm_leaves_its_overlays_at_the_limit_although_the_thaw_is_refused(
    spec: dict[str, object], fate: object, reason: Reason
) -> None:
    world = refusing_world(Method.SNAPSHOT, spec, 40)
    world.store.turns_per_work = 10_000
    home_while_frozen: list[str] = []

    def each_turn(world: World, turn: int) -> None:
        fate(world, turn)  # type: ignore[operator]
        run = world.run_now() if world.ledger.reports else None
        on_bases = [disk.source for disk in world.domain.disks] == list(world.sources.values())
        if run and run.on_overlay is False and run.outcome and on_bases and world.domain.guest.frozen:
            home_while_frozen.append(status(world))

    world.each_turn = each_turn
    run = world.walk()
    world.assert_home(run)
    assert run.failure is not None
    assert run.failure.reason is reason
    assert home_while_frozen, "the VM came home only after the guest was thawed"
    assert all("agent is not connected" in words for words in home_while_frozen), home_while_frozen
    assert run.thaw_tries == 41, "it is thawed all the same"


def test_push_job_that_stands_still_is_stopped_although_the_thaw_is_refused() -> None:
    world = refusing_world(Method.PUSH, {}, 50)
    world.domain.looks = 0
    stopped_while_frozen: list[bool] = []

    def each_turn(world: World, _turn: int) -> None:
        if any(isinstance(call, steps.AbortJob) for call in world.hypervisor.calls):
            stopped_while_frozen.append(world.domain.guest.frozen)
            world.domain.looks = 2

    world.each_turn = each_turn
    run = world.begin().model_copy(update={"stall_seconds": 10})
    world.begin = lambda: run  # type: ignore[method-assign]
    world.journal.record(run)
    ended = world.walk()
    assert stopped_while_frozen[0], "the job was stopped only after the guest was thawed"
    world.assert_home(ended)


@pytest.mark.parametrize("method", [Method.PUSH, Method.SNAPSHOT])
def test_copy_goes_on_while_the_thaw_is_refused_and_its_set_is_good(method: Method) -> None:
    world = refusing_world(method, {}, 20)
    run = world.walk()
    world.assert_home(run)
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
    thaws = [index for index, call in enumerate(world.hypervisor.calls) if isinstance(call, steps.ThawGuest)]
    assert len(thaws) == 21
