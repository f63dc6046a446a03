"""How every backup ends: verified and published by one rename, or discarded. The VM is already home."""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome, Phase, Verify
from vmbackup.core.rules import (
    Act,
    End,
    Fail,
    Go,
    Retry,
    Rule,
    Table,
    View,
    Wait,
    Write,
    always,
    because,
    failed,
    giving_up,
    last_error,
    resting,
    works_running,
)  # fmt: skip
from vmbackup.core.steps import Discard, Publish, StartVerification, StopWorks

ATTEMPTS_MAX = 5
DISCARD_TRIES_MAX = 5
ATTEMPT_REST_SECONDS = (5.0, 15.0, 60.0, 300.0)


def may_try_again(view: View) -> bool:
    """Return whether a new attempt can heal the failure before the deadline."""
    run = view.run
    heals = run.outcome is Outcome.FAILED and run.failure is not None and run.failure.heals
    return heals and run.attempt < ATTEMPTS_MAX and view.now + attempt_rest_seconds(run) < run.deadline_at


def attempt_rest_seconds(run: Run) -> float:
    return ATTEMPT_REST_SECONDS[min(run.attempt, len(ATTEMPT_REST_SECONDS)) - 1]


def _next_attempt(view: View) -> dict[str, object]:
    rest = attempt_rest_seconds(view.run)
    return {"attempt": view.run.attempt + 1, "outcome": None, "not_before": view.now + rest}


def _broken_image(view: View) -> str:
    target, work = next((target, work) for target, work in view.store.works.items() if work.state == "failed")
    return f"VM {view.run.domain}, disk {target}: {work.error}"


def _verified(view: View) -> dict[str, object]:
    run = view.run
    for target, work in view.store.works.items():
        if work.kind == "verify" and work.state == "done":
            run = run.with_disk(target, verified=True, stored_bytes=work.stored_bytes, sha256=work.sha256)
    return {"disks": run.disks}


def _unsaved_result(view: View) -> bool:
    ready = {target for target, work in view.store.works.items() if work.kind == "verify" and work.state == "done"}
    return any(disk.target in ready and not disk.verified for disk in view.run.disks)


def _unverified(view: View) -> str:
    """Return the next disk whose verification is to be started, empty when all run or are done."""
    verifying = {target for target, work in view.store.works.items() if work.kind == "verify"}
    return next((disk.target for disk in view.run.disks if not disk.verified and disk.target not in verifying), "")


def verify_reason(verify: Verify) -> Reason:
    return {Verify.NONE: Reason.NOT_REQUESTED, Verify.CHECK: Reason.CHECKED, Verify.CHECKSUM: Reason.CHECKSUMMED}[
        verify
    ]


ENDING: Table = {
    # The VM is as it was; only our files are worked on. A crash repeats the verification.
    Phase.VERIFYING: (
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule(
            "location in trouble",
            lambda view: bool(view.store.problem),
            Fail(because(Reason.LOCATION_UNUSABLE, lambda view: view.store.problem, heals=True), Phase.DISCARDING),
        ),
        Rule(
            "an image is broken",
            lambda view: any(work.kind == "verify" and work.state == "failed" for work in view.store.works.values()),
            Fail(because(Reason.VERIFICATION_FAILED, _broken_image, heals=True), Phase.DISCARDING),
        ),
        Rule(
            "cannot verify",
            failed(StartVerification),
            Fail(last_error(Reason.VERIFICATION_FAILED), Phase.DISCARDING),
        ),
        Rule("a result", _unsaved_result, Write(_verified)),
        Rule("all verified", lambda view: all(disk.verified for disk in view.run.disks), Go(Phase.PUBLISHING)),
        Rule(
            "an image to verify",
            lambda view: bool(_unverified(view)),
            Act(lambda view: StartVerification(_unverified(view))),
        ),
        Rule("verifying", always, Wait(0.5)),
    ),
    # One rename makes the set. A crash looks whether the set is there with our UID.
    Phase.PUBLISHING: (
        Rule(
            "the set is there",
            lambda view: view.store.published,
            Go(Phase.DONE, lambda view: {"outcome": view.run.outcome or Outcome.SUCCEEDED, "finished_at": view.now}),
        ),
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule("cannot publish", failed(Publish), Fail(last_error(Reason.PUBLISH_FAILED), Phase.DISCARDING)),
        Rule(
            "nothing to publish",
            lambda view: not view.store.partial,
            Fail(
                because(
                    Reason.PUBLISH_FAILED,
                    lambda view: view.store.problem or f"VM {view.run.domain}: the files of the set are gone",
                    heals=True,
                ),
                Phase.DISCARDING,
            ),
        ),
        Rule(
            "to be published", always, Act(lambda view: Publish(view.run.point_in_time or view.run.attempt_started_at))
        ),
    ),
    # Only our own `.partial` directory is removed; published sets are never touched.
    Phase.DISCARDING: (
        Rule("resting", resting, Wait(1.0)),
        Rule("work under way", works_running, Act(lambda _: StopWorks())),
        Rule(
            "cannot discard",
            lambda view: failed(Discard)(view) and view.run.tries < DISCARD_TRIES_MAX,
            Retry(),
        ),
        Rule(
            "something to discard",
            lambda view: view.store.partial and view.run.tries < DISCARD_TRIES_MAX,
            Act(lambda _: Discard()),
        ),
        Rule("a new attempt may heal it", may_try_again, Go(Phase.ASSIGNED, _next_attempt)),
        Rule("over", always, Go(Phase.DONE, lambda view: {"finished_at": view.now})),
    ),
    # Between two attempts: nothing of ours is anywhere. A new plan leads to Preparing.
    Phase.ASSIGNED: (
        Rule("giving up", giving_up, Go(Phase.DONE, lambda view: {"finished_at": view.now})),
        Rule("resting", always, Wait(1.0)),  # tick() plans again when the rest is over
    ),
    Phase.DONE: (Rule("over", always, End()),),
}
