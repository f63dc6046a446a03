"""Rows of the push table that decide whether a copy may be trusted."""

from dataclasses import replace
from typing import Any

import pytest

from unit.core.scene import REBORN, T0, a_disk, a_domain, a_run, did, facts, over, said_no, store
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.decide import decide
from vmbackup.core.facts import BackupJob, BlockJob, CompletedJob, DomainFacts, LastAct
from vmbackup.core.rules import Move
from vmbackup.core.steps import AbortJob, BeginPush, Discard, DrainStatistics, LimitSpeed, MakeDirectory, Step
from vmbackup.errors import NotYet
from vmbackup.units import GIB

RUN = a_run(Phase.COPYING, Method.PUSH, began=True)
PATH = f"/backups/{RUN.partial_path}/vda.qcow2"
OURS = BackupJob("backup", 1, GIB, {"vda": PATH})
THEIRS = BackupJob("backup", 1, GIB, {"vda": "/elsewhere/vda.qcow2"})
PULL = BackupJob("backup", 1, GIB)
MIGRATION = BackupJob("outgoing migration")
WELL, BADLY = CompletedJob("backup", True), CompletedJob("backup", False, "No space left on device")


def decided(phase: Phase, domain: DomainFacts, last: LastAct | None = None, still: float = 0.0, **run: Any) -> Move:
    seen = replace(facts(domain, last=last), still_seconds=still)
    return decide(a_run(phase, Method.PUSH, **{"began": True, **run}), seen, T0 + 10)


def end(move: Move) -> str:
    """Return where a move leads: phase, and the reason when it fixes the outcome."""
    reason = move.run.failure.reason if move.run.failure else ""
    return f"{move.run.phase} {reason}".strip()


@pytest.mark.parametrize(
    ("domain", "where"),
    [
        (a_domain(job=OURS), "Copying"),
        (a_domain(completed=WELL), "Verifying"),
        (a_domain(completed=WELL, state="off"), "Verifying"),
        (a_domain(completed=WELL, instance=REBORN), "Discarding SourceLost"),
        (a_domain(completed=BADLY), "Discarding BackupJobFailed"),
        (a_domain(completed=BADLY, state="off"), "Discarding SourceLost"),
        (a_domain(completed=CompletedJob("outgoing migration", True)), "Discarding BackupJobFailed"),
        (a_domain(), "Discarding OutcomeUnknown"),
        (a_domain(state="off"), "Discarding SourceLost"),
        (a_domain(instance=REBORN), "Discarding SourceLost"),
        (a_domain(job=THEIRS), "Discarding OutcomeUnknown"),
        (a_domain(job=PULL), "Discarding OutcomeUnknown"),
        (a_domain(job=MIGRATION), "Discarding OutcomeUnknown"),
    ],
    ids=[
        "runs",
        "finished",
        "finished, then off",
        "finished, other QEMU",
        "failed",
        "failed by the end of QEMU",
        "somebody's result",
        "no result",
        "off",
        "restarted",
        "somebody's push",
        "somebody's pull",
        "migration",
    ],
)
def test_copy_is_trusted_only_when_libvirt_says_of_this_very_qemu_that_it_is_whole(
    domain: DomainFacts, where: str
) -> None:
    assert end(decided(Phase.COPYING, domain)) == where


@pytest.mark.parametrize("job", [None, THEIRS, PULL, MIGRATION])
def test_who_gives_up_does_not_wait_for_the_end_of_somebody_elses_job(job: BackupJob | None) -> None:
    move = decided(Phase.COPYING, a_domain(job=job), **over(Outcome.CANCELLED))
    assert (move.run.phase, move.run.outcome, move.step) == (Phase.DISCARDING, Outcome.CANCELLED, None)


def test_who_gives_up_ends_the_own_job_first() -> None:
    assert decided(Phase.COPYING, a_domain(job=OURS), **over()).step == AbortJob()


def test_own_job_is_known_though_the_daemon_forgets_disks_that_are_done() -> None:
    paths = (("vda", PATH), ("vdb", PATH.replace("vda", "vdb")))
    disks = tuple(a_run().disks[0].model_copy(update={"target": t, "image": f"{t}.qcow2"}) for t, _ in paths)
    job = BackupJob("backup", 1, GIB, dict(paths[1:]))
    assert end(decided(Phase.COPYING, a_domain(a_disk(), a_disk(target="vdb"), job=job), disks=disks)) == "Copying"


@pytest.mark.parametrize(
    ("domain", "last", "changes", "where"),
    [
        (a_domain(job=OURS), None, {}, "Copying"),
        (a_domain(job=OURS), did(BeginPush(()), said_no()), {}, "Copying"),
        (a_domain(), did(BeginPush(())), {}, "Copying"),
        (a_domain(completed=WELL), None, {}, "Copying"),
        (a_domain(), did(BeginPush(()), said_no()), {}, "Discarding HypervisorError"),
        (a_domain(state="off"), did(BeginPush(()), said_no()), {}, "Discarding SourceLost"),
        (a_domain(instance=REBORN), did(BeginPush(()), said_no()), {}, "Discarding SourceLost"),
        (a_domain(), None, {}, "Discarding Interrupted"),
        (a_domain(job=THEIRS), None, {}, "Discarding Interrupted"),
        (a_domain(state="off"), None, {"began": False}, "Discarding SourceLost"),
        (a_domain(instance=REBORN), None, {"began": False}, "Discarding SourceLost"),
    ],
)
def test_start_that_was_interrupted_is_judged_by_what_is_seen(
    domain: DomainFacts, last: LastAct | None, changes: dict[str, Any], where: str
) -> None:
    assert end(decided(Phase.STARTING, domain, last, **changes)) == where


def test_vm_that_dies_as_its_backup_is_begun_gets_another_attempt() -> None:
    """libvirt 9.0 says "not supported" of a VM that is off: an error of its own that does not heal."""
    failure = decided(Phase.STARTING, a_domain(state="off"), did(BeginPush(()), said_no())).run.failure
    assert failure
    assert failure.heals


def test_start_is_written_down_with_the_point_in_time() -> None:
    move = decided(Phase.STARTING, a_domain(), began=False)
    assert move.step == BeginPush((("vda", PATH),))
    assert (move.run.began, move.run.point_in_time) == (True, T0 + 10)


def test_nothing_is_started_any_more_when_the_outcome_is_fixed() -> None:
    assert decided(Phase.STARTING, a_domain(), began=False, **over()).run.phase is Phase.DISCARDING


GHOST = BackupJob("backup", 0, 0, {"vda": PATH})


@pytest.mark.parametrize(
    ("disk", "still", "where"),
    [
        (a_disk(), 5.1, "Copying OutcomeUnknown"),
        (a_disk(), 4.9, "Copying"),
        (a_disk(job=BlockJob("backup")), 60.0, "Copying"),
        (a_disk(job=BlockJob("backup")), 301.0, "Copying Stalled"),
    ],
)
def test_job_without_work_behind_it_is_told_from_one_that_is_just_beginning(
    disk: Any, still: float, where: str
) -> None:
    assert end(decided(Phase.COPYING, a_domain(disk, job=GHOST), still=still)) == where


@pytest.mark.parametrize(("error", "told"), [("Input/output error", True), ("No space left on device", False)])
def test_job_that_fails_with_its_target_says_that_writes_of_the_guest_may_have_failed(error: str, told: bool) -> None:
    """A full target pauses the guest, which is resumed; any other error reaches it, unless its disks stop at errors."""
    move = decided(Phase.COPYING, a_domain(completed=CompletedJob("backup", False, error)))
    assert move.run.failure is not None
    assert error in move.run.failure.message
    assert ("writes of the guest" in move.run.failure.message) is told


def test_limit_is_asked_for_once_and_only_while_the_job_runs() -> None:
    wish = {"spec": {"maxBytesPerSecond": "10Mi"}}
    assert decided(Phase.COPYING, a_domain(job=OURS), **wish).step == LimitSpeed(("vda",), 10 * 1024**2)
    assert decided(Phase.COPYING, a_domain(job=OURS), did(LimitSpeed(("vda",), 1)), **wish).run.limited
    assert decided(Phase.COPYING, a_domain(job=OURS), limited=True, **wish).step is None
    assert decided(Phase.COPYING, a_domain(completed=WELL), **wish).run.phase is Phase.VERIFYING


def test_limit_is_asked_for_again_when_the_daemon_was_away() -> None:
    wish = {"spec": {"maxBytesPerSecond": "10Mi"}}
    away = did(LimitSpeed(("vda",), 1), NotYet(Reason.HYPERVISOR_AWAY, "the daemon is away"))
    move = decided(Phase.COPYING, a_domain(job=OURS), away, **wish)
    assert (move.run.outcome, move.run.trouble) == (None, "the daemon is away")
    resting = decide(move.run, facts(a_domain(job=OURS)), T0 + 10.5)
    assert (resting.step, resting.run.outcome) == (None, None)
    assert isinstance(decide(move.run, facts(a_domain(job=OURS)), T0 + 12).step, LimitSpeed)
    last = decided(Phase.COPYING, a_domain(job=OURS), away, tries=5, **wish)
    assert last.run.failure is not None, "a limit is never ignored for long"
    assert last.run.failure.heals


def test_words_about_a_limit_go_when_it_is_in_force() -> None:
    run = {"spec": {"maxBytesPerSecond": "10Mi"}, "tries": 2, "trouble": "the daemon is away"}
    move = decided(Phase.COPYING, a_domain(job=OURS), did(LimitSpeed(("vda",), 1)), **run)
    assert (move.run.limited, move.run.tries, move.run.trouble) == (True, 0, "")


def test_limit_that_is_refused_is_no_silent_default() -> None:
    move = decided(Phase.COPYING, a_domain(job=OURS), did(LimitSpeed(("vda",), 1), said_no()))
    assert (move.run.outcome, move.run.phase) == (Outcome.FAILED, Phase.COPYING)


@pytest.mark.parametrize("tries", [0, 1500])
def test_abort_that_is_refused_is_tried_for_ever(tries: int) -> None:
    move = decided(Phase.COPYING, a_domain(job=OURS), did(AbortJob(), said_no("busy")), tries=tries, **over())
    assert (move.run.trouble, move.run.phase, move.step) == ("busy", Phase.COPYING, None)
    assert 0 < (move.wait_seconds or 0) <= 30


# -- before the start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (a_domain(job=MIGRATION), "a outgoing migration job runs that is not ours"),
        (a_domain(a_disk(), a_disk(target="vdb", job=BlockJob("copy"))), "disk vdb: a copy block job runs"),
    ],
)
def test_somebody_elses_job_is_waited_for_and_named(domain: DomainFacts, words: str) -> None:
    move = decided(Phase.PREPARING, domain, began=False)
    assert (move.run.phase, move.step, move.wait_seconds) == (Phase.PREPARING, None, 1.0)
    assert words in move.run.trouble


@pytest.mark.parametrize(
    ("step", "domain", "seen"),
    [
        (MakeDirectory(), a_domain(), store(partial=False)),
        (DrainStatistics(), a_domain(completed=WELL), store()),
    ],
)
def test_act_without_effect_is_not_repeated_without_a_rest(step: Step, domain: DomainFacts, seen: Any) -> None:
    run = a_run(Phase.PREPARING, Method.PUSH)
    assert decide(run, facts(domain, seen), T0).step == step
    move = decide(run, facts(domain, seen, last=did(step)), T0)
    assert (move.step, move.wait_seconds) == (None, 1.0)
    assert move.run.trouble


def test_directory_that_cannot_be_removed_is_not_removed_again_without_a_rest() -> None:
    run = a_run(Phase.DISCARDING, Method.PUSH, made=True, **over())
    move = decide(run, facts(last=did(Discard())), T0)
    assert (move.step, move.wait_seconds) == (None, 1.0)
    assert "still there" in move.run.trouble


@pytest.mark.parametrize("error", [said_no(), NotYet(Reason.HYPERVISOR_AWAY, "cut off")])
def test_statistics_that_cannot_be_read_away_end_the_attempt(error: Any) -> None:
    move = decided(Phase.PREPARING, a_domain(completed=WELL), did(DrainStatistics(), error), began=False)
    assert move.run.outcome is Outcome.FAILED
