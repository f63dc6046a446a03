"""A location that is away, silent or unusable for a while: the backup waits in words, the VM never does."""

import pytest

from vmbackup.api.conditions import ConditionType, Reason, find
from vmbackup.api.vmbackup import Method, Outcome, Phase, VMBackupStatus
from vmbackup.core import steps
from vmbackup.core.facts import Wishes
from vmbackup.core.report import status_of
from walk.world import World, now_in

METHODS = (Method.PUSH, Method.SNAPSHOT)
MISSING = "/backups does not exist on this node"
SILENT = "/backups has not answered for 3 seconds"


def told(world: World) -> str:
    """Return reason and message of what the user reads now."""
    run, facts = world.ledger.reports[-1]
    ready = find(status_of(run, facts, VMBackupStatus(), world.clock.now()).conditions, ConditionType.READY)
    assert ready is not None
    return f"{ready.reason}: {ready.message}"


class Away:
    """Takes the location away as soon as a phase is reached, for so many seconds."""

    def __init__(self, phase: Phase, seconds: float, words: str = MISSING) -> None:
        self.phase, self.seconds, self.words = phase, seconds, words
        self.since: float | None = None
        self.phases: set[Phase] = set()
        self.told: set[str] = set()

    def __call__(self, world: World, _turn: int) -> None:
        if self.since is None and now_in(world) is self.phase:
            self.since = world.clock.now()
        away = self.since is not None and world.clock.now() - self.since < self.seconds
        world.store.away, world.store.silent = (self.words, self.words == SILENT) if away else ("", False)
        if away and world.ledger.reports:
            self.phases.add(now_in(world))
            self.told.add(told(world))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("words", [MISSING, SILENT])
def test_location_away_for_a_minute_at_the_begin_is_waited_for_in_words(method: Method, words: str) -> None:
    world = World(method)
    world.each_turn = away = Away(Phase.PREPARING, 60, words)
    run = world.walk()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
    assert any(said.startswith("LocationNotReady: ") and words in said for said in away.told), away.told
    assert away.phases == {Phase.PREPARING}
    world.assert_home(run)


def test_location_that_never_comes_is_waited_for_until_the_deadline() -> None:
    world = World(Method.PUSH, {"deadlineSeconds": 120})
    world.each_turn = Away(Phase.PREPARING, 10**6)
    began = world.clock.now()
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.DEADLINE_EXCEEDED
    assert MISSING in run.failure.message
    assert world.clock.now() - began < 180
    assert not run.debris


def test_cancel_ends_the_wait_for_a_location() -> None:
    world = World(Method.SNAPSHOT)
    world.each_turn = Away(Phase.PREPARING, 10**6)
    world.ledger.wish = Wishes(cancel=True)
    assert world.walk().outcome is Outcome.CANCELLED


def test_location_that_cannot_heal_is_refused_at_once() -> None:
    world = World(Method.PUSH)
    world.store.problem = "/backups is not a directory"
    began = world.clock.now()
    run = world.walk()
    assert run.outcome is Outcome.REFUSED
    assert run.failure is not None
    assert run.failure.reason is Reason.LOCATION_UNUSABLE
    assert world.clock.now() - began < 2


@pytest.mark.parametrize(
    ("method", "phase"),
    [
        (Method.SNAPSHOT, Phase.COPYING),
        (Method.SNAPSHOT, Phase.VERIFYING),
        (Method.PUSH, Phase.VERIFYING),
        (Method.PUSH, Phase.PUBLISHING),
    ],
)
def test_location_silent_for_a_minute_costs_no_attempt(method: Method, phase: Phase) -> None:
    world = World(method)
    world.store.turns_per_work = 200
    world.each_turn = away = Away(phase, 60, SILENT)
    run = world.walk()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1), run.failure
    assert any(said.startswith("LocationNotReady: ") for said in away.told), away.told
    world.assert_home(run)


def hold_works(world: World) -> None:
    """Works hang with the location."""
    advance = world.store.advance
    world.store.advance = lambda run: None if world.store.silent else advance(run)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("method", "phase"),
    [(Method.SNAPSHOT, Phase.COPYING), (Method.SNAPSHOT, Phase.VERIFYING), (Method.PUSH, Phase.VERIFYING)],
)
def test_location_silent_for_longer_than_a_stall_fails_the_attempt_and_the_vm_is_home_meanwhile(
    method: Method, phase: Phase
) -> None:
    world = World(method)
    hold_works(world)
    away = Away(phase, 330, SILENT)
    home_after: list[float] = []

    def each_turn(world: World, turn: int) -> None:
        away(world, turn)
        home = all(disk.source == world.sources[disk.target] for disk in world.domain.disks)
        if away.since is not None and home and not home_after and now_in(world) is not phase:
            home_after.append(world.clock.now() - away.since)

    world.each_turn = each_turn
    run = world.walk()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
    assert 300 <= home_after[0] < 320, "at home as soon as the copy was given up, while the location was still silent"
    world.assert_home(run)


def test_vm_on_its_overlay_goes_home_at_once_when_it_is_asked_to_though_the_location_is_silent() -> None:
    world = World(Method.SNAPSHOT)
    hold_works(world)
    away = Away(Phase.COPYING, 10**6, SILENT)
    asked: list[float] = []
    home: list[float] = []

    def each_turn(world: World, turn: int) -> None:
        away(world, turn)
        if away.since is not None and world.clock.now() - away.since > 10 and not asked:
            asked.append(world.clock.now())
            world.ledger.wish = Wishes(cancel=True)
        if asked and not home and all(disk.source == world.sources[disk.target] for disk in world.domain.disks):
            home.append(world.clock.now())

    world.each_turn = each_turn
    run = world.walk()
    assert run.outcome is Outcome.CANCELLED
    assert home[0] - asked[0] < 10
    assert not any(isinstance(step, steps.Publish) for step in world.store.calls)
