"""A guest that we froze is thawed, whatever fails; one that cannot be is never a success."""

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze
from vmbackup.api.vmbackup import Method, Outcome
from vmbackup.core import steps
from vmbackup.errors import Failed
from vmbackup.tick import Turn, drive, tick
from walk.world import Crash, World

METHODS = (Method.PUSH, Method.SNAPSHOT)
FULL = Failed(Reason.STORE_ERROR, "no space left for the journal", heals=True)


@pytest.mark.parametrize("method", METHODS)
def test_guest_frozen_by_an_agent_that_died_is_thawed_though_the_journal_is_full(method: Method) -> None:
    world = World(method)
    turn = Turn(world.begin())
    world.hypervisor.hook = crash_after(steps.FreezeGuest)
    with pytest.raises(Crash):
        drive(world.ports, turn.run, world.clock.advance)
    world.hypervisor.hook = lambda _call, _when: None
    assert world.domain.guest.frozen
    world.journal.errors["record"] = FULL
    turn = Turn(world._restart())
    began = world.clock.now()
    while world.domain.guest.frozen:
        turn = tick(world.ports, turn)
        world.clock.advance((turn.wait_seconds or 0) + 0.01)
        assert world.clock.now() - began < 10, "the guest stays frozen"
    assert not [call for call in world.hypervisor.calls if isinstance(call, steps.BeginPush | steps.TakeSnapshot)]


def crash_after(step: type) -> object:
    def hook(call: object, when: str) -> None:
        if call is step and when == "after":
            raise Crash

    return hook


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_begun_without_a_record_even_while_the_guest_is_frozen(method: Method) -> None:
    world = World(method)

    def fill(world: World, turn: int) -> None:
        world.journal.errors = {"record": FULL} if world.domain.guest.frozen else {}
        if world.domain.guest.frozen:
            assert world.run_now().freeze in (Freeze.INTENDED, Freeze.FROZEN)

    world.each_turn = fill
    run = world.walk()
    world.assert_home(run)
    begun = [call for call in world.hypervisor.calls if isinstance(call, steps.BeginPush | steps.TakeSnapshot)]
    assert not begun


@pytest.mark.parametrize("method", METHODS)
def test_thaw_waits_for_a_guest_agent_that_comes_back(method: Method) -> None:
    world = World(method)
    world.hypervisor.errors[steps.ThawGuest] = [Failed(Reason.FREEZE_FAILED, "agent is not connected")] * 9
    run = world.walk()
    world.assert_home(run)
    assert run.outcome is Outcome.SUCCEEDED
    assert run.quiesced is not None


@pytest.mark.parametrize("method", METHODS)
def test_guest_that_stays_frozen_is_never_a_success(method: Method) -> None:
    world = World(method)
    world.hypervisor.errors[steps.ThawGuest] = Failed(Reason.FREEZE_FAILED, "agent is not connected")
    world.domain.guest.let_watchdog_bark = lambda: None  # type: ignore[method-assign]
    run = world.walk()
    assert run.outcome is Outcome.STRANDED
    assert run.failure is not None
    assert "virsh domfsthaw demo_vm1" in run.failure.message
    assert not world.store.sets
