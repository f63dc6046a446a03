"""How a run ends: nothing is published that was not verified, nothing of a set that is there is lost."""

from typing import Any

import pytest

from unit.core.scene import T0, a_domain, a_run, did, facts, over, run_disk, said_no, store
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.decide import decide
from vmbackup.core.ending import attempt_rest_seconds
from vmbackup.core.facts import Facts, LastAct, Wishes, Work
from vmbackup.core.rules import Move
from vmbackup.core.steps import Discard, Publish, StartVerification, StopWorks

DONE = Work("verify", "done", stored_bytes=7, sha256="ab")
RUNNING = Work("verify", "running")
BROKEN = Work("verify", "failed", error="qemu-img check found 3 corruptions")
AWAY = "/backups has not answered for 3 seconds"
ONE, TWO = (run_disk(),), (run_disk(), run_disk(target="vdb"))
VERIFIED = (run_disk(verified=True),)
RENAMED: dict[str, Any] = {"disks": VERIFIED, "named": True}


def decided(
    phase: Phase, last: LastAct | None = None, wishes: Wishes | None = None, now: float = T0 + 10, **parts: Any
) -> Move:
    """Decide. parts: `seen` of the store; the rest is the run's."""
    seen = parts.pop("seen", {})
    at_hand = facts(a_domain(), store(**seen), last=last, wishes=wishes or Wishes())
    return decide(a_run(phase, Method.PUSH, **{"began": True, "made": True, **parts}), at_hand, now)


# -- verifying --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disks", "works", "expected"),
    [
        (ONE, {}, StartVerification("vda")),
        (TWO, {"vda": RUNNING}, StartVerification("vdb")),
        (TWO, {"vda": RUNNING, "vdb": RUNNING}, None),
        (ONE, {"vda": Work("copy", "done")}, StartVerification("vda")),
    ],
)
def test_images_are_verified_side_by_side(disks: Any, works: dict[str, Work], expected: Any) -> None:
    move = decided(Phase.VERIFYING, disks=disks, seen={"works": works})
    assert (move.step, move.run.phase) == (expected, Phase.VERIFYING)


def test_result_is_written_down_before_the_set_is_published() -> None:
    move = decided(Phase.VERIFYING, disks=TWO, seen={"works": {"vda": DONE, "vdb": RUNNING}})
    first, second = move.run.disks
    assert (first.verified, first.stored_bytes, first.sha256) == (True, 7, "ab")
    assert not second.verified
    assert move.run.phase is Phase.VERIFYING


def test_result_of_a_copy_verifies_nothing() -> None:
    copied = Work("copy", "done", stored_bytes=7)
    move = decided(Phase.VERIFYING, disks=ONE, seen={"works": {"vda": copied}})
    assert not move.run.disks[0].verified


def test_one_broken_image_is_enough_and_is_named() -> None:
    works = {"vda": DONE, "vdb": BROKEN}
    move = decided(Phase.VERIFYING, disks=TWO, seen={"works": works})
    assert (move.run.phase, move.run.outcome) == (Phase.DISCARDING, Outcome.FAILED)
    assert move.run.failure is not None
    assert (move.run.failure.reason, move.run.failure.heals) == (Reason.VERIFICATION_FAILED, True)
    assert "disk vdb: qemu-img check" in move.run.failure.message


def test_all_or_nothing_is_published() -> None:
    assert decided(Phase.VERIFYING, disks=VERIFIED).run.phase is Phase.PUBLISHING
    half = (run_disk(verified=True), run_disk(target="vdb"))
    assert decided(Phase.VERIFYING, disks=half).run.phase is Phase.VERIFYING


@pytest.mark.parametrize("wishes", [Wishes(cancel=True), Wishes(deleted=True)])
def test_withdrawn_while_it_is_verified(wishes: Wishes) -> None:
    run = decided(Phase.VERIFYING, wishes=wishes, disks=VERIFIED).run
    assert decide(run, facts(), T0).run.phase is Phase.DISCARDING


# -- publishing -------------------------------------------------------------------------------------------------------


def test_name_is_written_down_before_it_is_given() -> None:
    move = decided(Phase.PUBLISHING, disks=VERIFIED, point_in_time=T0 + 3)
    assert (move.step, move.run.named) == (Publish(T0 + 3), True)


@pytest.mark.parametrize("last", [None, did(Publish(T0)), did(Publish(T0), said_no("fsync failed"))])
@pytest.mark.parametrize("outcome", [{}, over(Outcome.CANCELLED)])
def test_set_that_is_there_is_a_success_whatever_was_said_or_wished(last: Any, outcome: dict[str, Any]) -> None:
    seen = {"published": True, "partial": False}
    move = decided(Phase.PUBLISHING, last, Wishes(cancel=True), seen=seen, **RENAMED, **outcome)
    assert (move.run.phase, move.run.outcome, move.run.failure) == (Phase.DONE, Outcome.SUCCEEDED, None)


@pytest.mark.parametrize("last", [None, did(Publish(T0)), did(Publish(T0), said_no("Stale file handle"))])
def test_set_that_may_have_its_name_is_not_given_up_while_the_location_hides_it(last: LastAct | None) -> None:
    """The rename may have been the last thing that worked: a failure now would leave a set that nobody knows of."""
    hidden = {"problem": AWAY, "partial": False}
    move = decided(Phase.PUBLISHING, last, seen=hidden, **RENAMED)
    assert (move.run.phase, move.run.outcome, move.step, move.wait_seconds) == (Phase.PUBLISHING, None, None, 1.0)
    assert move.run.trouble == AWAY
    back = decide(move.run, facts(store=store(published=True, partial=False)), T0 + 11)
    assert back.run.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("wishes", "now"), [(Wishes(cancel=True), T0), (Wishes(deleted=True), T0), (Wishes(), T0 + 3601)]
)
def test_hidden_set_is_not_waited_for_against_the_wish_or_beyond_the_deadline(wishes: Wishes, now: float) -> None:
    hidden = {"problem": AWAY, "partial": False}
    move = decided(Phase.PUBLISHING, None, wishes, now, seen=hidden, **RENAMED)
    assert (move.run.phase, move.run.outcome) == (Phase.DISCARDING, Outcome.FAILED)
    assert move.run.failure is not None
    assert "whether demo/vm1/20260921T141320Z-first-7b0f3c51 was published cannot be seen" in move.run.failure.message


@pytest.mark.parametrize(
    ("last", "seen", "reason"),
    [
        (did(Publish(T0), said_no("name is taken")), {}, Reason.HYPERVISOR_ERROR),
        (None, {"partial": False}, Reason.PUBLISH_FAILED),
        (None, {"partial": False, "problem": AWAY}, Reason.PUBLISH_FAILED),
    ],
    ids=["refused", "files gone", "hidden, not named yet"],
)
def test_set_that_cannot_be_published_is_a_failure(last: Any, seen: dict[str, Any], reason: Reason) -> None:
    move = decided(Phase.PUBLISHING, last, seen=seen, disks=VERIFIED)
    assert (move.run.phase, move.run.outcome) == (Phase.DISCARDING, Outcome.FAILED)
    assert move.run.failure is not None
    assert move.run.failure.reason is reason


# -- discarding and the next attempt ----------------------------------------------------------------------------------


def test_work_is_stopped_before_its_files_are_removed() -> None:
    seen = {"works": {"vda": Work("copy", "running")}}
    assert decided(Phase.DISCARDING, seen=seen, **over()).step == StopWorks()
    assert decided(Phase.DISCARDING, **over()).step == Discard()


def test_directory_that_is_half_made_cannot_be_seen_and_is_removed_too() -> None:
    assert decided(Phase.DISCARDING, seen={"partial": False}, **over()).step == Discard()


@pytest.mark.parametrize(
    ("changes", "now", "again"),
    [
        (over(heals=True), T0 + 10, True),
        (over(heals=False), T0 + 10, False),
        (over(Outcome.CANCELLED, heals=True), T0 + 10, False),
        (over(Outcome.STRANDED, heals=True), T0 + 10, False),
        (over(Outcome.REFUSED, heals=True), T0 + 10, False),
        ({**over(heals=True), "attempt": 4}, T0 + 10, True),
        ({**over(heals=True), "attempt": 5}, T0 + 10, False),
        (over(heals=True), T0 + 3594, True),
        (over(heals=True), T0 + 3595, False),
    ],
)
def test_only_what_may_heal_before_the_deadline_is_tried_again(
    changes: dict[str, Any], now: float, again: bool
) -> None:
    move = decided(Phase.DISCARDING, did(Discard()), now=now, seen={"partial": False}, **changes)
    if again:
        assert (move.run.phase, move.run.outcome) == (Phase.ASSIGNED, None)
        assert (move.run.attempt, move.run.made) == (changes.get("attempt", 1) + 1, False)
        assert move.run.not_before > now
    else:
        assert (move.run.phase, move.run.outcome, move.run.finished_at) == (Phase.DONE, changes["outcome"], now)


def test_rests_between_attempts_grow() -> None:
    assert [attempt_rest_seconds(a_run(attempt=number)) for number in range(1, 7)] == [5, 15, 60, 300, 300, 300]


def test_files_that_could_not_be_removed_are_told_in_the_end() -> None:
    move = decided(Phase.DISCARDING, tries=6, trouble="Read-only file system", **over(heals=True))
    assert (move.run.phase, move.run.debris) == (Phase.DONE, True)
    assert move.run.failure is not None
    assert move.run.partial_path in move.run.failure.message
    assert "Read-only file system" in move.run.failure.message


@pytest.mark.parametrize("tries", [0, 3, 5])
def test_location_out_of_reach_is_waited_for_a_while(tries: int) -> None:
    seen = {"problem": AWAY, "partial": False}
    move = decided(Phase.DISCARDING, seen=seen, tries=tries, **over(heals=True))
    assert move.run.phase is (Phase.DISCARDING if tries < 5 else Phase.DONE)


def test_nothing_is_left_to_do_at_the_end() -> None:
    assert decided(Phase.DONE, seen={"works": {"vda": RUNNING}}, **over()).wait_seconds is None


# -- without libvirt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "changes"),
    [(Phase.VERIFYING, {"disks": VERIFIED}), (Phase.PUBLISHING, {"disks": VERIFIED}), (Phase.DISCARDING, over())],
)
def test_a_copy_that_is_whole_needs_no_libvirt_to_be_published(phase: Phase, changes: dict[str, Any]) -> None:
    blind = Facts(None, store(), hypervisor_problem="the daemon is away")
    move = decide(a_run(phase, Method.PUSH, began=True, made=True, **changes), blind, T0 + 10)
    assert move.step is not None or move.run.phase is not phase
