"""What holds for every record and everything that can be seen: random facts, drawn by hypothesis."""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unit.core.scene import BASE, BORN, OVERLAY, REBORN, T0, a_disk, a_domain, a_run, absent, run_disk, said_no
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Freeze, Quiesced, Run
from vmbackup.api.vmbackup import Method, Outcome, Phase, VMBackupStatus
from vmbackup.core import steps
from vmbackup.core.decide import POINT_IN_TIME, TABLES, decide
from vmbackup.core.facts import (
    BackupJob,
    BlockJob,
    CompletedJob,
    DiskFacts,
    DomainFacts,
    Facts,
    Image,
    LastAct,
    StoreFacts,
    Wishes,
    Work,
)
from vmbackup.core.position import AT_BASE, Position, positions
from vmbackup.core.report import status_of
from vmbackup.core.rules import Move, View
from vmbackup.errors import NotYet
from vmbackup.units import GIB

EXAMPLES = settings(
    max_examples=50, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
PARTIAL = f"/backups/{a_run().partial_path}"
TARGETS = ("vda", "vdb")
ACTS: tuple[Any, ...] = (
    steps.DrainStatistics(),
    steps.FreezeGuest(8.0),
    steps.ThawGuest(),
    steps.BeginPush((("vda", f"{PARTIAL}/vda.qcow2"),)),
    steps.LimitSpeed(("vda",), 1),
    steps.AbortJob(),
    steps.TakeSnapshot((("vda", OVERLAY),)),
    steps.StartCommit("vda", BASE),
    steps.Pivot("vda"),
    steps.MakeDirectory(),
    steps.StartCopy("vda"),
    steps.StopWorks(),
    steps.RemoveOverlay("vda"),
    steps.StartVerification("vda"),
    steps.Publish(T0),
    steps.Discard(),
    steps.ResumeGuest(),
)


def overlay_of(target: str) -> str:
    return OVERLAY.replace(".vda.", f".{target}.")


def base_of(target: str) -> str:
    return BASE.replace("vda", target)


def some_disk(target: str) -> st.SearchStrategy[DiskFacts]:
    base, overlay = base_of(target), overlay_of(target)
    jobs = st.one_of(
        st.none(),
        st.builds(BlockJob, st.sampled_from(["active-commit", "copy", "backup"]), ready=st.booleans()),
    )
    return st.builds(
        lambda source, below, inactive, job: a_disk(
            target=target, source=source, backing=below, inactive_source=inactive, job=job
        ),
        st.sampled_from([base, overlay, "/images/somebody"]),
        st.sampled_from([(), (Image(base, "qcow2", "file"),), (Image("/images/golden", "qcow2", "file"),)]),
        st.sampled_from([None, base, overlay, "/images/somebody"]),
        jobs,
    )


@st.composite
def domains(draw: st.DrawFn) -> DomainFacts:
    state = draw(st.sampled_from(["running", "running", "paused", "off", "absent"]))
    if state == "absent":
        return absent()
    targets = draw(st.sampled_from([TARGETS, TARGETS, TARGETS[:1]]))
    ours = {target: f"{PARTIAL}/{target}.qcow2" for target in TARGETS}
    job = st.builds(
        BackupJob,
        st.sampled_from(["backup", "outgoing migration"]),
        bytes_total=st.sampled_from([0, GIB]),
        targets=st.sampled_from([{}, ours, {"vda": "/elsewhere/vda.qcow2"}]),
    )
    completed = st.builds(
        CompletedJob, st.sampled_from(["backup", "outgoing migration"]), st.booleans(), st.just("no room")
    )
    return a_domain(
        *(draw(some_disk(target)) for target in targets),
        state=state,
        paused_by_io_error=state == "paused" and draw(st.booleans()),
        persistent=draw(st.booleans()),
        instance=draw(st.sampled_from([BORN, REBORN])),
        guest_agent=draw(st.booleans()),
        job=draw(st.none() | job) if state != "off" else None,
        completed=draw(st.none() | completed),
    )


works = st.dictionaries(
    st.sampled_from(TARGETS),
    st.builds(Work, st.sampled_from(["copy", "verify"]), st.sampled_from(["running", "done", "failed"])),
)
stores = st.builds(
    StoreFacts,
    problem=st.sampled_from(["", "", "", "it does not answer"]),
    passing=st.booleans(),
    silent=st.booleans(),
    free_bytes=st.sampled_from([0, 100 * GIB]),
    reserve_bytes=st.just(GIB),
    partial=st.booleans(),
    published=st.booleans(),
    works=works,
    overlay_bytes=st.dictionaries(st.sampled_from(TARGETS), st.sampled_from([0, 196_608, GIB, 100 * GIB])),
    overlay_free_bytes=st.sampled_from([None, 0, 100 * GIB]),
    written_at=st.dictionaries(
        st.sampled_from([path for target in TARGETS for path in (base_of(target), overlay_of(target))]),
        st.sampled_from([T0, T0 + 0.5, T0 + 100]),
    ),
)
errors = st.sampled_from([None, said_no(), said_no(heals=True), NotYet(Reason.HYPERVISOR_AWAY, "cut off")])
seen = st.builds(
    Facts,
    st.none() | domains(),
    stores,
    st.builds(Wishes, st.booleans(), st.booleans(), st.booleans()),
    st.none() | st.builds(LastAct, st.sampled_from(ACTS), errors, st.sampled_from([None, 0, 9000])),
    st.just(""),
    st.sampled_from([0.0, 6.0, 1000.0]),
)


def outcomes_in(phase: Phase) -> list[Outcome | None]:
    """Return the outcomes that a run of ours can have there."""
    bad = [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED]
    if phase is Phase.DONE:
        return list(Outcome)
    return bad if phase is Phase.DISCARDING else [None, None, None, *bad]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    method = draw(st.sampled_from(list(TABLES)))
    phase = draw(st.sampled_from(list(TABLES[method])))
    flag = st.booleans()
    disks = tuple(
        run_disk(
            target=target,
            overlay=overlay_of(target),
            copied=draw(flag),
            verified=draw(flag),
            commits=draw(st.sampled_from([0, 1, 3000])),
            pivot_instance=draw(st.sampled_from(["", BORN, REBORN])),
            base_written_at=draw(st.sampled_from([None, T0])),
            followed=draw(flag),
        )
        for target in TARGETS
    )
    outcome = draw(st.sampled_from(outcomes_in(phase)))
    failed = draw(flag) or outcome not in (None, Outcome.SUCCEEDED) or phase is Phase.ASSIGNED
    failure = Failure(reason=Reason.COPY_FAILED, message="it went wrong", heals=draw(flag)) if failed else None
    quiesced = Quiesced(done=draw(flag), reason=Reason.FROZEN)
    return a_run(
        phase,
        method,
        disks=disks,
        outcome=outcome,
        failure=failure,
        spec={
            "quiesce": draw(st.sampled_from(["Never", "IfAvailable", "Required"])),
            "maxBytesPerSecond": draw(st.sampled_from([None, "10Mi"])),
        },
        attempt=draw(st.integers(1, 6)),
        tries=draw(st.sampled_from([0, 1, 5, 6, 5000])),
        paused=draw(flag),
        resume_tries=draw(st.sampled_from([0, 5, 6])),
        thaw_tries=draw(st.sampled_from([0, 5, 60])),
        not_before=draw(st.sampled_from([0.0, T0 + 20, T0 + 10**9])),
        freeze=draw(st.sampled_from(list(Freeze))),
        frozen_at=draw(st.none() | st.just(T0)),
        quiesced=draw(st.none() | st.just(quiesced)),
        point_in_time=draw(st.none() | st.just(T0)),
        overlay_at=draw(st.none() | st.just(T0)),
        overlay_milliseconds=draw(st.none() | st.just(5)),
        **{name: draw(flag) for name in ("began", "made", "named", "limited")},
    )


nows = st.sampled_from([T0, T0 + 10, T0 + 4000, 1000.0])


@EXAMPLES
@given(runs(), seen, nows)
def test_every_decision_is_safe(run: Run, facts: Facts, now: float) -> None:
    move = decide(run, facts, now)
    check_act(run, facts, now, move)
    check_end(run, facts, move)
    assert move.run.uid == run.uid
    assert Run.model_validate_json(move.run.model_dump_json(by_alias=True)) == move.run, "it can be read again"


def check_act(run: Run, facts: Facts, now: float, move: Move) -> None:  # noqa: C901 - one line per promise
    """See that an act is fit for what is seen, and that its intent is written with it."""
    step = move.step
    over = run.outcome is not None
    match step:
        case steps.BeginPush() | steps.TakeSnapshot() | steps.FreezeGuest():
            assert not over, "nothing is begun once the outcome is fixed"
            assert isinstance(step, steps.FreezeGuest) or (move.run.began and not run.began)
            assert not isinstance(step, steps.FreezeGuest) or move.run.freeze is Freeze.INTENDED
        case steps.StartCopy() | steps.StartVerification() | steps.LimitSpeed() | steps.MakeDirectory():
            assert not over
        case steps.AbortJob():
            assert over
            assert facts.domain is not None
            assert facts.domain.job is not None
            assert facts.domain.job.targets == {target: f"{PARTIAL}/{target}.qcow2" for target in TARGETS}
        case steps.StartCommit(target, base):
            assert positions(View(run, facts, now))[target] is Position.ON_OVERLAY
            assert base == base_of(target)
            assert not any(work.state == "running" for work in facts.store.works.values())
        case steps.Pivot(target):
            assert positions(View(run, facts, now))[target] is Position.READY
            assert move.run.disk(target).pivot_instance
        case steps.RemoveOverlay(target):
            assert positions(View(run, facts, now))[target] in AT_BASE
            disk = facts.domain.disk(target) if facts.domain else None
            assert disk is None or overlay_of(target) not in (disk.source, disk.inactive_source)
        case steps.Publish():
            assert move.run.named
        case steps.ResumeGuest():
            assert not run.paused, "who was paused by somebody stays so"
            assert facts.domain is not None
            assert facts.domain.paused_by_io_error
        case steps.Discard():
            assert over or run.phase is Phase.DISCARDING
    may_be_frozen = run.freeze in (Freeze.INTENDED, Freeze.FROZEN)
    if may_be_frozen and run.phase not in POINT_IN_TIME:
        assert step is None or isinstance(step, steps.ThawGuest), "first of all the guest is thawed"


def check_end(run: Run, facts: Facts, move: Move) -> None:
    """See where success comes from, and that no end is reached with the VM away from home."""
    to, before = move.run, run
    if to.phase is Phase.PUBLISHING and before.phase is not Phase.PUBLISHING:
        assert all(disk.verified for disk in to.disks)
        assert to.outcome is None
    if to.outcome is Outcome.SUCCEEDED and before.outcome is not Outcome.SUCCEEDED:
        assert before.phase is Phase.PUBLISHING
        assert facts.store.published
    if to.phase is Phase.DONE and before.phase is not Phase.DONE:
        assert to.outcome is not None
        assert to.outcome is Outcome.SUCCEEDED or to.failure is not None or before.failure is None
        assert to.finished_at is not None
    if to.phase is not before.phase:
        on_the_way = (Phase.SNAPSHOTTING, Phase.COPYING, Phase.COMMITTING, Phase.PIVOTING, Phase.CLEANING)
        if before.method is Method.SNAPSHOT and before.phase in on_the_way:
            assert to.phase in on_the_way or before.phase is Phase.CLEANING, "home leads through Cleaning"
    if before.outcome not in (None, Outcome.STRANDED) and before.phase is not Phase.DISCARDING:
        assert to.outcome in (before.outcome, Outcome.STRANDED, Outcome.SUCCEEDED), "an outcome is not changed"
    if to.failure is not None and to.failure != before.failure:
        assert to.failure.message


@EXAMPLES
@given(runs(), seen, nows)
def test_no_move_is_repeated_without_a_rest_while_nothing_changes(run: Run, facts: Facts, now: float) -> None:
    """Every act returns, and but for our own works nothing changes: sooner or later the run rests, or is over."""
    for _ in range(40):
        move = decide(run, facts, now)
        if move.wait_seconds is None or move.wait_seconds > 0:
            return
        last = LastAct(move.step, value=0) if move.step else None
        run, facts = move.run, replace(facts, store=worked_on(facts.store, move.step), last=last)
    raise AssertionError(f"phase {run.phase} does not rest: {move.step}")


def worked_on(store: StoreFacts, step: steps.Step | None) -> StoreFacts:
    match step:
        case steps.StopWorks():
            return replace(store, works={})
        case steps.StartCopy(target):
            return replace(store, works={**store.works, target: Work("copy", "running")})
        case steps.StartVerification(target):
            return replace(store, works={**store.works, target: Work("verify", "running")})
        case _:
            return store


@EXAMPLES
@given(runs(), seen, nows)
def test_every_run_can_be_told(run: Run, facts: Facts, now: float) -> None:
    status = status_of(run, facts, VMBackupStatus(), now)
    assert status.phase is run.phase
    assert status.conditions
