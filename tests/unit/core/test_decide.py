"""What comes before the tables of the phases: wishes, the deadline, and that no guest stays frozen."""

from typing import Any

import pytest

from unit.core.scene import T0, a_run, facts, over, view
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze, Quiesced, Run
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.decide import TABLES, decide
from vmbackup.core.facts import Facts, Wishes
from vmbackup.core.rules import Move

DEADLINE = T0 + 3600
QUIESCED = Quiesced(done=True, reason=Reason.FROZEN)
ON_THE_WAY = [
    (method, phase)
    for method in TABLES
    for phase in TABLES[method]
    if phase not in (Phase.PUBLISHING, Phase.DISCARDING, Phase.DONE)
]
SETTLED = [(method, phase) for method in TABLES for phase in (Phase.PUBLISHING, Phase.DISCARDING, Phase.DONE)]
FROZEN: dict[str, Any] = {"freeze": Freeze.FROZEN, "frozen_at": T0 + 5, "quiesced": QUIESCED, "began": True}


def decided(run: Run, seen: Facts | None = None, now: float = T0 + 10) -> Move:
    return decide(run, seen or facts(), now)


# -- wishes and the deadline ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "phase"), ON_THE_WAY)
@pytest.mark.parametrize(
    ("wishes", "now", "outcome", "reason"),
    [
        (Wishes(cancel=True), T0, Outcome.CANCELLED, Reason.CANCELLED),
        (Wishes(deleted=True), T0, Outcome.CANCELLED, Reason.DELETED),
        (Wishes(), DEADLINE + 1, Outcome.FAILED, Reason.DEADLINE_EXCEEDED),
        (Wishes(cancel=True, deleted=True), DEADLINE + 1, Outcome.CANCELLED, Reason.CANCELLED),
        (Wishes(deleted=True), DEADLINE + 1, Outcome.CANCELLED, Reason.DELETED),
    ],
)
def test_outcome_is_fixed_in_every_phase_and_the_phase_stays(
    method: Method, phase: Phase, wishes: Wishes, now: float, outcome: Outcome, reason: Reason
) -> None:
    move = decided(a_run(phase, method), facts(wishes=wishes), now)
    assert (move.run.outcome, move.run.phase, move.step) == (outcome, phase, None)
    assert move.run.failure is not None
    assert (move.run.failure.reason, move.run.failure.heals) == (reason, False)


@pytest.mark.parametrize(("method", "phase"), SETTLED)
def test_what_lies_on_the_disk_decides_from_publishing_on(method: Method, phase: Phase) -> None:
    run = a_run(phase, method, **(over() if phase is Phase.DISCARDING else {}))
    move = decided(run, facts(wishes=Wishes(cancel=True, deleted=True)), DEADLINE + 1)
    assert move.run.outcome is not Outcome.CANCELLED


def test_outcome_that_is_fixed_is_not_fixed_again() -> None:
    run = a_run(Phase.COMMITTING, began=True, **over(Outcome.STRANDED))
    assert decided(run, facts(wishes=Wishes(cancel=True)), DEADLINE + 1).run.outcome is Outcome.STRANDED


def test_deadline_is_not_over_at_its_last_moment() -> None:
    assert decided(a_run(), now=DEADLINE).run.outcome is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trouble": "a copy block job runs that is not ours"}, "a copy block job runs that is not ours"),
        ({"failure": over()["failure"]}, "it went wrong"),
        ({}, "not done after"),
    ],
)
def test_deadline_says_what_was_in_the_way_last(changes: dict[str, Any], words: str) -> None:
    failure = decided(a_run(Phase.PREPARING, **changes), now=DEADLINE + 1).run.failure
    assert failure is not None
    assert words in failure.message
    assert "demo_vm1" in failure.message


# -- a hypervisor that is away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase",
    [
        Phase.PREPARING,
        Phase.FREEZING,
        Phase.SNAPSHOTTING,
        Phase.COPYING,
        Phase.COMMITTING,
        Phase.PIVOTING,
        Phase.CLEANING,
    ],
)
def test_nothing_of_the_vm_is_decided_without_a_look_at_it(phase: Phase) -> None:
    run = a_run(phase, began=True)
    seen = Facts(None, facts().store, Wishes(cancel=True), hypervisor_problem="away")
    assert decide(run, seen, DEADLINE + 1) == Move(run, wait_seconds=1.0)


@pytest.mark.parametrize(
    ("phase", "then"),
    [(Phase.VERIFYING, Phase.DISCARDING), (Phase.ASSIGNED, Phase.DONE), (Phase.DISCARDING, Phase.DISCARDING)],
)
def test_backup_is_withdrawn_without_the_hypervisor_once_the_vm_is_home(phase: Phase, then: Phase) -> None:
    seen = Facts(None, facts().store, Wishes(cancel=True), hypervisor_problem="away")
    run = a_run(phase, **(over() if phase is Phase.DISCARDING else {}))
    run = decide(run, seen, T0).run
    assert decide(run, seen, T0).run.phase is then


def test_guest_that_may_be_frozen_is_waited_for_everywhere() -> None:
    run = a_run(Phase.DISCARDING, **FROZEN, **over())
    assert decide(run, Facts(None, facts().store), T0) == Move(run, wait_seconds=1.0)


def test_every_table_ends_with_a_row_that_always_holds() -> None:
    for table in TABLES.values():
        for rules in table.values():
            assert rules[-1].test(view(a_run(), facts()))
