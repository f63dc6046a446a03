"""A backup walks to its end on fakes; it is killed at every effect, refused at every act, left by its guest."""

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, Outcome
from walk.strikes import cancelled_at, daemon_dies_at, guest_dies_at, killed_again
from walk.world import World

METHODS = (Method.PUSH, Method.SNAPSHOT)


@pytest.mark.parametrize("method", METHODS)
def test_undisturbed_backup_succeeds_and_the_guest_was_frozen_for_a_moment(method: Method) -> None:
    world = World(method)
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    assert run.attempt == 1
    assert run.quiesced is not None
    assert run.quiesced.done
    assert run.frozen_milliseconds is not None
    assert world.domain.guest.freezes == 1
    world.assert_home(run)


@pytest.mark.parametrize("method", METHODS)
def test_agent_killed_at_every_effect_and_restarted(method: Method) -> None:
    for strike in range(1, World(method).effects_of_a_good_walk() + 1):
        world = World(method, strike_at=strike)
        run = world.walk()
        assert world.crashes == 1, f"effect {strike} was not reached"
        assert run.outcome is Outcome.SUCCEEDED, f"effect {strike}: {run.failure}"
        world.assert_home(run)


@pytest.mark.parametrize("method", METHODS)
def test_agent_killed_twice(method: Method) -> None:
    count = World(method).effects_of_a_good_walk()
    for first in range(1, count, 5):
        world = World(method, strike_at=first)
        world.each_turn = killed_again(first, effects=7)
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"effect {first}: {run.failure}"
        world.assert_home(run)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("quiesce", ["IfAvailable", "Never"])
def test_every_effect_survives_a_dead_daemon(method: Method, quiesce: str) -> None:
    for moment in range(40):
        world = World(method, {"quiesce": quiesce})
        world.each_turn = daemon_dies_at(moment)
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"turn {moment}: {run.failure}"
        world.assert_home(run)


@pytest.mark.parametrize("method", METHODS)
def test_cancelled_at_every_turn_goes_home_and_publishes_nothing_or_all(method: Method) -> None:
    outcomes = set()
    for moment in range(60):
        world = World(method)
        world.each_turn = cancelled_at(moment)
        run = world.walk()
        outcomes.add(run.outcome)
        assert run.outcome in (Outcome.CANCELLED, Outcome.SUCCEEDED)
        world.assert_home(run)
    assert outcomes == {Outcome.CANCELLED, Outcome.SUCCEEDED}


@pytest.mark.parametrize("method", METHODS)
def test_guest_dies_at_every_turn_and_is_started_again(method: Method) -> None:
    for moment in range(40):
        world = World(method)
        world.each_turn = guest_dies_at(moment)
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"turn {moment}: {run.failure}"
        world.assert_home(run)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spec", [{"deadlineSeconds": 1}])
def test_deadline_ends_the_copy_not_the_way_home(method: Method, spec: dict[str, object]) -> None:
    world = World(method, spec)
    world.domain.looks = 0
    world.store.turns_per_work = 100

    def hurry(world: World, turn: int) -> None:
        if turn > 50:
            world.domain.looks = 2

    world.each_turn = hurry
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.DEADLINE_EXCEEDED
    world.assert_home(run)
