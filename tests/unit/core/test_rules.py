"""What rows of the tables are made of: what each effect writes down, and how tests read the last act."""

from dataclasses import replace

import pytest

from unit.core.scene import T0, a_domain, a_run, did, facts, over, said_no, store, view
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Freeze
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core import rules
from vmbackup.core.rules import Act, End, Fail, Go, Retry, Wait, Write, because, last_error
from vmbackup.core.steps import AbortJob, Discard, Pivot
from vmbackup.errors import Failed, NotYet, Refused

TROUBLED = {"tries": 3, "not_before": T0 + 99, "trouble": "base is full"}
WHY = because(Reason.COPY_FAILED, lambda _: "no more room", heals=True)


def test_entering_a_phase_forgets_the_troubles_of_the_one_before() -> None:
    move = Go(Phase.PIVOTING).move(view(a_run(Phase.COMMITTING, **TROUBLED)))
    assert (move.run.phase, move.run.tries, move.run.not_before, move.run.trouble) == (Phase.PIVOTING, 0, 0.0, "")
    assert (move.step, move.wait_seconds) == (None, 0.0)


def test_act_is_done_after_its_intent_is_written() -> None:
    move = Act(lambda _: AbortJob(), lambda _: {"began": True}).move(view(a_run()))
    assert (move.run.began, move.step) == (True, AbortJob())


def test_write_changes_the_record_only() -> None:
    move = Write(lambda _: {"limited": True}).move(view(a_run(Phase.COPYING)))
    assert (move.run, move.step, move.wait_seconds) == (a_run(Phase.COPYING, limited=True), None, 0.0)


def test_wait_keeps_what_was_said_unless_it_has_words_of_its_own() -> None:
    run = a_run(trouble="base is full")
    assert Wait(0.5).move(view(run)).run == run
    assert Wait(0.5, lambda _: "VM is off").move(view(run)).run.trouble == "VM is off"
    assert Wait(0.5, lambda _: "").move(view(run)).run.trouble == ""


@pytest.mark.parametrize(("tries", "rest"), [(0, 1.0), (1, 2.0), (4, 16.0), (5, 30.0), (1023, 30.0), (1024, 30.0)])
def test_rests_grow_to_half_a_minute_and_stay_there_for_days(tries: int, rest: float) -> None:
    """2.0 ** 1024 is more than a float can hold: after eight hours of tries nobody would have tried any more."""
    run = a_run(Phase.COMMITTING, tries=tries)
    move = Retry().move(view(run, facts(last=did(Pivot("vda"), said_no("base is full")))))
    assert (move.wait_seconds, move.run.not_before) == (rest, T0 + 10 + rest)
    assert (move.run.tries, move.run.trouble) == (tries + 1, "base is full")


@pytest.mark.parametrize(
    ("not_before", "now", "rests"),
    [
        (0.0, T0, False),
        (T0 + 5, T0, True),
        (T0 + 5, T0 + 5, False),
        (T0 + 300, T0, True),
        (T0 + 86400, T0, False),
        (T0, 1000.0, False),
    ],
    ids=["none", "rests", "rested", "longest", "a day", "clock of 1970"],
)
def test_clock_that_was_set_back_by_a_reboot_does_not_keep_a_vm_from_home(
    not_before: float, now: float, rests: bool
) -> None:
    assert rules.resting(view(a_run(not_before=not_before), now=now)) is rests


def test_failure_fixes_the_outcome_and_the_way() -> None:
    move = Fail(WHY, Phase.DISCARDING).move(view(a_run(Phase.COPYING, **TROUBLED)))
    assert (move.run.phase, move.run.outcome, move.run.tries) == (Phase.DISCARDING, Outcome.FAILED, 0)
    assert move.run.failure == Failure(reason=Reason.COPY_FAILED, message="no more room", heals=True)


def test_second_failure_does_not_hide_the_first() -> None:
    run = a_run(Phase.COPYING, **over(Outcome.CANCELLED))
    move = Fail(WHY, Phase.COMMITTING).move(view(run))
    assert (move.run.outcome, move.run.failure) == (Outcome.CANCELLED, run.failure)
    assert move.run.phase is Phase.COMMITTING


@pytest.mark.parametrize(("attempt", "outcome"), [(1, Outcome.REFUSED), (2, Outcome.FAILED)])
def test_refused_is_only_said_when_nothing_was_ever_touched(attempt: int, outcome: Outcome) -> None:
    move = Fail(WHY, Phase.DISCARDING, Outcome.REFUSED).move(view(a_run(attempt=attempt)))
    assert move.run.outcome is outcome


def test_end_is_for_ever() -> None:
    assert End().move(view(a_run(Phase.DONE))).wait_seconds is None


@pytest.mark.parametrize(
    ("error", "reason", "heals"),
    [
        (Failed(Reason.NO_SPACE, "full", heals=True), Reason.NO_SPACE, True),
        (Failed(Reason.NO_SPACE, "full"), Reason.NO_SPACE, False),
        (NotYet(Reason.HYPERVISOR_AWAY, "away"), Reason.HYPERVISOR_AWAY, True),
        (Refused(Reason.METHOD_UNSUPPORTED, "too old"), Reason.METHOD_UNSUPPORTED, False),
        (Failed("SomethingNew", "odd", heals=True), Reason.PUBLISH_FAILED, True),
    ],
)
def test_failure_of_an_act_keeps_its_reason_when_that_is_one_of_ours(
    error: Failed, reason: Reason, heals: bool
) -> None:
    failure = last_error(Reason.PUBLISH_FAILED)(view(a_run(), facts(last=did(Discard(), error))))
    assert (failure.reason, failure.message, failure.heals) == (reason, error.message, heals)


def test_last_act_is_known_by_its_kind_and_its_end() -> None:
    well = view(a_run(), facts(last=did(AbortJob())))
    badly = view(a_run(), facts(last=did(AbortJob(), said_no())))
    lost = view(a_run(), facts())
    assert [rules.done(AbortJob)(each) for each in (well, badly, lost)] == [True, False, False]
    assert [rules.failed(AbortJob)(each) for each in (well, badly, lost)] == [False, True, False]
    assert not rules.done(Discard)(well)
    assert not rules.failed(Discard)(badly)


@pytest.mark.parametrize(
    ("changes", "gone"),
    [({}, False), ({"instance": "boot.9.9"}, True), ({"state": "off"}, True), ({"state": "paused"}, False)],
)
def test_vm_is_gone_with_its_qemu_even_when_another_has_started(changes: dict[str, str], gone: bool) -> None:
    assert rules.vm_gone(view(a_run(), facts(a_domain(**changes)))) is gone


@pytest.mark.parametrize(
    ("free", "reserve", "problem", "tight"),
    [(10, 10, "", True), (11, 10, "", False), (0, 0, "", True), (0, 10, "cannot be seen", False)],
)
def test_location_without_room_is_told_from_one_that_cannot_be_seen(
    free: int, reserve: int, problem: str, tight: bool
) -> None:
    seen = store(free_bytes=free, reserve_bytes=reserve, problem=problem)
    assert rules.tight(view(a_run(), facts(store=seen))) is tight


@pytest.mark.parametrize(("still", "stalls"), [(300.0, False), (300.1, True)])
def test_standing_still_is_a_fault_only_after_the_given_time(still: float, stalls: bool) -> None:
    assert rules.stalled(view(a_run(stall_seconds=300), replace(facts(), still_seconds=still))) is stalls


@pytest.mark.parametrize(
    ("phase", "freeze", "needs"),
    [
        (Phase.COPYING, Freeze.OVER, True),
        (Phase.CLEANING, Freeze.OVER, True),
        (Phase.VERIFYING, Freeze.OVER, False),
        (Phase.DISCARDING, Freeze.NOT_TRIED, False),
        (Phase.DISCARDING, Freeze.FROZEN, True),
        (Phase.VERIFYING, Freeze.INTENDED, True),
        (Phase.ASSIGNED, Freeze.OVER, False),
    ],
)
def test_libvirt_may_be_away_where_only_our_files_are_worked_on(phase: Phase, freeze: Freeze, needs: bool) -> None:
    assert rules.needs_hypervisor(a_run(phase, freeze=freeze)) is needs
