"""A restore walks to its end on fakes; it is killed at every effect, refused at every act, cancelled at every turn."""

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.facts import Wishes
from vmbackup.core.restore_facts import (
    Define,
    Place,
    Prepare,
    Release,
    StartDomain,
    StartPull,
    Swap,
)
from vmbackup.errors import Failed, Refused
from walk.restore_world import KINDS, TARGETS, RestoreWorld

every_kind = pytest.mark.parametrize("kind", list(KINDS))


@every_kind
def test_undisturbed_restore_succeeds(kind: RestoreKind) -> None:
    world = RestoreWorld(kind)
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert world.proof_written == (kind is RestoreKind.PROOF)
    world.assert_end(run)


@every_kind
def test_agent_killed_at_every_effect_and_restarted(kind: RestoreKind) -> None:
    for strike in range(1, RestoreWorld(kind).effects_of_a_good_walk() + 1):
        world = RestoreWorld(kind, strike_at=strike)
        run = world.walk()
        assert world.crashes == 1, f"effect {strike} was not reached"
        assert run.outcome is Outcome.SUCCEEDED, f"effect {strike}: {run.failure}"
        world.assert_end(run)


@every_kind
def test_agent_killed_twice(kind: RestoreKind) -> None:
    for first in range(1, RestoreWorld(kind).effects_of_a_good_walk(), 3):
        world = RestoreWorld(kind, strike_at=first)

        def again(world: RestoreWorld, _turn: int) -> None:
            if world.crashes == 1 and world.strike_at == first:  # noqa: B023
                world.strike_at = world.effects + 5

        world.each_turn = again
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"effect {first}: {run.failure}"
        world.assert_end(run)


@every_kind
def test_cancelled_at_every_turn_leaves_nothing_or_all(kind: RestoreKind) -> None:
    outcomes = set()
    for moment in range(60):
        world = RestoreWorld(kind)

        def cancel(world: RestoreWorld, turn: int) -> None:
            if turn == moment:  # noqa: B023
                world.wish = Wishes(cancel=True)

        world.each_turn = cancel
        run = world.walk()
        outcomes.add(run.outcome)
        assert run.outcome in (Outcome.CANCELLED, Outcome.SUCCEEDED)
        world.assert_end(run)
    assert outcomes == {Outcome.CANCELLED, Outcome.SUCCEEDED}


@every_kind
def test_daemon_away_at_every_turn(kind: RestoreKind) -> None:
    for moment in range(50):
        world = RestoreWorld(kind)

        def blink(world: RestoreWorld, turn: int) -> None:
            if turn == moment:  # noqa: B023
                world.away = "no socket"
            if turn == moment + 3:  # noqa: B023
                world.away = ""

        world.each_turn = blink
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"turn {moment}: {run.failure}"
        world.assert_end(run)


@pytest.mark.parametrize("strike", range(0, 60, 4))
def test_qemu_killed_at_every_turn_of_an_instant_restore_loses_nothing(strike: int) -> None:
    """Whatever QEMU had not written down is brought again, and no guest is started on an image that lacks it."""
    for moment in range(40):
        world = RestoreWorld(RestoreKind.INSTANT, strike_at=strike)

        def kill(world: RestoreWorld, turn: int) -> None:
            if turn == moment:  # noqa: B023
                world.kill_qemu()

        world.each_turn = kill
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"turn {moment}: {run.failure}"
        world.assert_end(run)


def test_a_deleted_instant_restore_whose_guest_runs_goes_on() -> None:
    world = RestoreWorld(RestoreKind.INSTANT)

    def delete(world: RestoreWorld, _turn: int) -> None:
        if world.last is not None and world.last.running_at is not None:
            world.wish = Wishes(deleted=True)

    world.each_turn = delete
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    world.assert_end(run)


def test_the_deadline_does_not_end_a_guest_that_runs() -> None:
    world = RestoreWorld(RestoreKind.INSTANT)

    def late(world: RestoreWorld, _turn: int) -> None:
        if world.last is not None and world.last.running_at is not None:
            world.clock.advance(1_000_000.0)

    world.each_turn = late
    assert world.walk().outcome is Outcome.SUCCEEDED


STEPS = {
    RestoreKind.NEW_DOMAIN: (Prepare, Place, Define, StartDomain),
    RestoreKind.DISKS: (Prepare, Place),
    RestoreKind.IN_PLACE: (Prepare, Swap, StartDomain),
    RestoreKind.INSTANT: (Prepare, Place, StartDomain),
    RestoreKind.PROOF: (Prepare, StartDomain),
}


@pytest.mark.parametrize(("kind", "step"), [(kind, step) for kind, steps in STEPS.items() for step in steps])
def test_a_refused_act_undoes_all_that_was_done(kind: RestoreKind, step: type) -> None:
    world = RestoreWorld(kind, errors={step: Failed(Reason.RESTORE_FAILED, "libvirt says no")})
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert "libvirt says no" in run.failure.message
    world.assert_end(run)


def test_a_refusal_before_anything_is_done_is_told_as_one() -> None:
    world = RestoreWorld(RestoreKind.DISKS, errors={Prepare: Refused(Reason.NO_SPACE, "too small")})
    run = world.walk()
    assert (run.outcome, run.failure.reason if run.failure else None) == (Outcome.REFUSED, Reason.NO_SPACE)
    world.assert_end(run)


def test_a_pull_that_fails_is_tried_again_and_the_guest_runs_on() -> None:
    world = RestoreWorld(RestoreKind.INSTANT, errors={StartPull: Failed(Reason.RESTORE_FAILED, "no space")})
    seen = []

    def mend(world: RestoreWorld, _turn: int) -> None:
        if world.last is not None and "no space" in world.last.trouble:
            seen.append(world.state)
            world.errors.clear()

    world.each_turn = mend
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    assert seen
    assert set(seen) == {"running"}
    world.assert_end(run)


def test_a_vm_that_is_started_in_mid_swap_is_waited_for_and_gets_its_old_disks_back() -> None:
    world = RestoreWorld(RestoreKind.IN_PLACE)

    def meddle(world: RestoreWorld, turn: int) -> None:
        half = sorted(disk.own for disk in world.disks.values()) == ["new", "old"]
        if half and world.state == "off" and world.last is not None and world.last.phase is RestorePhase.PLACING:
            world.state = "running"
        if world.last is not None and "was started while" in world.last.trouble:
            world.state = "off"

    world.each_turn = meddle
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.VM_RUNNING
    world.assert_end(run)


@pytest.mark.parametrize("target", TARGETS)
def test_a_vm_that_is_started_between_the_look_and_a_rename_is_no_success(target: str) -> None:
    """QEMU runs on an image that has just lost its name: removing it would take the guest's writes with it."""
    world = RestoreWorld(RestoreKind.IN_PLACE, started_before_swap=target)

    def shut_down_when_told(world: RestoreWorld, _turn: int) -> None:
        if world.last is not None and "was started while" in world.last.trouble:
            assert all(disk.kept for disk in world.disks.values() if disk.used and disk.own == "new")
            world.state = "off"

    world.each_turn = shut_down_when_told
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.VM_RUNNING
    world.assert_end(run)


def test_a_copy_that_never_comes_up_has_failed_and_is_removed() -> None:
    world = RestoreWorld(RestoreKind.PROOF, comes_up=False)
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.NO_HEARTBEAT
    assert world.proof_written
    world.assert_end(run)


def test_what_cannot_be_tidied_up_is_told_and_does_not_hang() -> None:
    world = RestoreWorld(RestoreKind.DISKS, errors={Release: Failed(Reason.STORE_ERROR, "read-only", heals=True)})
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    assert "read-only" in run.left
