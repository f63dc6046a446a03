"""No guest stays frozen or paused by us, whatever phase the run is in."""

from dataclasses import replace
from typing import Any

import pytest

from unit.core.scene import T0, WRITTEN, a_domain, a_run, did, facts, on_overlay, over, said_no, store
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze, Quiesced, Run
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.decide import TABLES, decide
from vmbackup.core.facts import DomainFacts, Facts, Wishes
from vmbackup.core.rules import Move
from vmbackup.core.steps import FreezeGuest, ResumeGuest, StartCopy, ThawGuest

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


@pytest.mark.parametrize(("method", "phase"), [*ON_THE_WAY, *SETTLED])
@pytest.mark.parametrize("freeze", [Freeze.INTENDED, Freeze.FROZEN])
def test_guest_that_may_be_frozen_is_thawed_first_in_every_phase_but_those_of_the_point_in_time(
    method: Method, phase: Phase, freeze: Freeze
) -> None:
    step = decided(a_run(phase, method, freeze=freeze, frozen_at=T0)).step
    in_time = phase in (Phase.FREEZING, Phase.STARTING, Phase.SNAPSHOTTING)
    assert (step == ThawGuest()) is not in_time


@pytest.mark.parametrize("phase", [Phase.FREEZING, Phase.SNAPSHOTTING])
def test_wish_is_heard_while_the_guest_is_frozen_and_the_thaw_follows(phase: Phase) -> None:
    run = decided(a_run(phase, **{**FROZEN, "began": False}), facts(wishes=Wishes(cancel=True))).run
    run = decided(run).run
    assert run.outcome is Outcome.CANCELLED
    assert decided(run).step == ThawGuest()


def test_thaw_is_counted_before_it_is_tried() -> None:
    assert decided(a_run(Phase.COPYING, **FROZEN, thaw_tries=2)).run.thaw_tries == 3


@pytest.mark.parametrize(("milliseconds", "quiesced"), [(0, True), (7_999, True), (8_000, False), (30_000, False)])
def test_guest_thawed_by_the_watchdog_before_the_point_in_time_was_certain_is_not_quiesced(
    milliseconds: int, quiesced: bool
) -> None:
    run = decided(a_run(Phase.COPYING, **FROZEN), facts(last=did(ThawGuest(), value=milliseconds))).run
    assert (run.freeze, run.frozen_milliseconds) == (Freeze.OVER, milliseconds)
    assert run.quiesced is not None
    assert run.quiesced.done is quiesced
    assert run.outcome is None


def test_guest_thawed_too_early_fails_a_backup_that_must_be_quiesced() -> None:
    run = a_run(Phase.COPYING, spec={"quiesce": "Required"}, **FROZEN)
    moved = decided(run, facts(last=did(ThawGuest(), value=9_000))).run
    assert moved.outcome is Outcome.FAILED
    assert moved.failure is not None
    assert moved.failure.reason is Reason.QUIESCE_FAILED


@pytest.mark.parametrize(("seconds", "quiesced"), [(3.0, True), (9.0, False), (900.0, False)])
def test_freeze_that_outlived_its_agent_lasted_until_now(seconds: float, quiesced: bool) -> None:
    """Who froze the guest is gone, and nobody counted: zero milliseconds and a quiesced copy would both be lies."""
    run = decided(a_run(Phase.COPYING, **FROZEN), facts(last=did(ThawGuest())), T0 + 5 + seconds).run
    assert run.frozen_milliseconds == seconds * 1000
    assert run.quiesced is not None
    assert run.quiesced.done is quiesced


def test_dead_guest_needs_no_thaw() -> None:
    run = decided(a_run(Phase.COPYING, **FROZEN), facts(a_domain(state="off"))).run
    assert (run.freeze, run.thaw_tries) == (Freeze.OVER, 0)


@pytest.mark.parametrize("freeze", [Freeze.INTENDED, Freeze.FROZEN])
def test_refused_thaw_rests_a_moment_and_is_tried_again(freeze: Freeze) -> None:
    """A guest agent comes back by itself after some seconds; five tries in a millisecond would miss it."""
    run = a_run(Phase.DISCARDING, **{**FROZEN, "freeze": freeze}, **over(), thaw_tries=1)
    refused = decided(run, facts(last=did(ThawGuest(), said_no("agent is away"))), T0)
    assert refused.step is None
    assert refused.run.trouble == "agent is away"
    resting = decided(refused.run, now=T0 + 0.9)
    assert (resting.step, resting.wait_seconds) == (None, 1.0)
    assert decided(refused.run, now=T0 + 1.1).step == ThawGuest()


ON_IT: dict[str, Any] = {**FROZEN, "began": True, "overlay_at": T0}
ON_OVERLAY = facts(a_domain(on_overlay()), store(overlay_bytes={"vda": WRITTEN}))


def test_table_goes_on_between_two_thaws_and_the_words_stay() -> None:
    """Somebody must look at the limits of a VM on overlays while its agent refuses for minutes."""
    run = a_run(Phase.COPYING, **ON_IT, thaw_tries=1)
    refused = decided(run, facts(last=did(ThawGuest(), said_no("agent is away"))), T0).run
    between = decided(refused, ON_OVERLAY, now=T0 + 0.5)
    assert between.step == StartCopy("vda")
    assert between.run.trouble == "agent is away"


def test_what_was_done_between_two_thaws_is_judged_before_the_next_one() -> None:
    run = a_run(Phase.COPYING, **ON_IT, thaw_tries=1, thaw_not_before=T0)
    moved = decided(run, replace(ON_OVERLAY, last=did(StartCopy("vda"), said_no("no"))), now=T0 + 5).run
    assert moved.outcome is Outcome.FAILED


def test_clock_that_is_set_back_does_not_put_off_a_thaw() -> None:
    run = a_run(Phase.COPYING, **FROZEN, thaw_tries=1, thaw_not_before=T0 + 3600)
    assert decided(run, now=T0).step == ThawGuest()


def test_freeze_of_which_nothing_is_known_is_given_up_and_told() -> None:
    """The agent hangs, so the freeze was not confirmed either: most likely nothing is frozen."""
    run = a_run(Phase.COPYING, **{**FROZEN, "freeze": Freeze.INTENDED}, thaw_tries=5)
    moved = decided(run, facts(last=did(ThawGuest(), said_no("agent hangs")))).run
    assert (moved.freeze, moved.outcome) == (Freeze.OVER, None)
    assert moved.quiesced is not None
    assert "virsh domfsthaw demo_vm1" in moved.quiesced.message


def test_guest_that_is_frozen_for_certain_is_not_given_up_so_soon() -> None:
    run = a_run(Phase.COPYING, **FROZEN, thaw_tries=5)
    assert decided(run, facts(last=did(ThawGuest(), said_no()))).run.freeze is Freeze.FROZEN


@pytest.mark.parametrize("outcome", [{}, over(), over(Outcome.CANCELLED)])
def test_guest_that_cannot_be_thawed_needs_a_human(outcome: dict[str, Any]) -> None:
    run = a_run(Phase.COPYING, **FROZEN, thaw_tries=60, **outcome)
    moved = decided(run, facts(last=did(ThawGuest(), said_no("agent is away")))).run
    assert (moved.outcome, moved.freeze) == (Outcome.STRANDED, Freeze.OVER)
    assert moved.failure is not None
    assert "virsh domfsthaw demo_vm1" in moved.failure.message


def test_words_about_a_thaw_go_when_it_was_done() -> None:
    run = a_run(Phase.COPYING, **FROZEN, trouble="agent is away")
    assert decided(run, facts(last=did(ThawGuest(), value=5))).run.trouble == ""


PAUSED = a_domain(state="paused", paused_by_io_error=True)


@pytest.mark.parametrize(
    ("method", "phase"),
    [
        (Method.PUSH, Phase.VERIFYING),
        (Method.PUSH, Phase.DISCARDING),
        (Method.SNAPSHOT, Phase.CLEANING),
        (Method.SNAPSHOT, Phase.DISCARDING),
    ],
)
def test_guest_that_qemu_has_paused_for_an_error_is_told_to_go_on(method: Method, phase: Phase) -> None:
    run = a_run(phase, method, began=True, **(over() if phase is Phase.DISCARDING else {}))
    move = decided(run, facts(PAUSED))
    assert (move.step, move.run.resume_tries) == (ResumeGuest(), 1)
    assert "I/O error" in move.run.trouble
    rest = decided(move.run, facts(PAUSED, last=did(ResumeGuest(), said_no())))
    assert (rest.step, rest.wait_seconds) == (None, 1.0)


@pytest.mark.parametrize(
    ("phase", "domain", "changes"),
    [
        (Phase.COPYING, PAUSED, {}),
        (Phase.COMMITTING, PAUSED, {}),
        (Phase.CLEANING, a_domain(state="paused"), {}),
        (Phase.CLEANING, PAUSED, {"paused": True}),
        (Phase.DISCARDING, PAUSED, {"began": False}),
        (Phase.CLEANING, PAUSED, {"resume_tries": 6}),
    ],
    ids=["still copied", "on its overlay", "by somebody", "before", "nothing was done", "in vain"],
)
def test_guest_is_resumed_only_when_it_was_paused_because_of_us(
    phase: Phase, domain: DomainFacts, changes: dict[str, Any]
) -> None:
    run = a_run(phase, **{"began": True, **over(), **changes})
    assert decided(run, facts(domain)).step != ResumeGuest()


def test_paused_guest_is_given_half_a_minute_whatever_wakes_us_meanwhile() -> None:
    """QEMU's own events wake the agent at every try; whoever makes room on the storage is not that fast."""
    run, now, tries = a_run(Phase.CLEANING, began=True, **over()), T0 + 10, []
    while not run.left:
        move = decided(run, facts(PAUSED), now)
        if move.step == ResumeGuest():
            tries.append(now - T0 - 10)
        run, now = move.run, now + 0.1
        assert now < T0 + 100
    assert len(tries) == 5
    assert now - T0 - 10 > 30


def test_guest_that_stays_paused_is_left_to_a_human_in_words() -> None:
    run = decided(a_run(Phase.CLEANING, began=True, resume_tries=5, left="/x stays."), facts(PAUSED)).run
    assert run.left.startswith("/x stays. VM demo_vm1 is paused")
    assert "virsh resume demo_vm1" in run.left


def test_freeze_is_written_down_before_it_is_asked_for() -> None:
    move = decided(a_run(Phase.FREEZING), facts(a_domain(guest_agent=True)))
    assert isinstance(move.step, FreezeGuest)
    assert (move.run.freeze, move.run.frozen_at) == (Freeze.INTENDED, T0 + 10)
