"""How every backup ends: verified and published by one rename, or discarded. The VM is already home."""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Method, Outcome, Phase, Verify
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
    done,
    failed,
    giving_up,
    in_vain,
    last_error,
    location_in_trouble,
    location_problem,
    location_silent,
    resting,
    stalled,
    works_running,
)
from vmbackup.core.steps import Discard, Publish, StartVerification, StopWorks

ATTEMPTS_MAX = 5
DISCARD_TRIES_MAX = 5
ATTEMPT_REST_SECONDS = (5.0, 15.0, 60.0, 300.0)


# -- Verifying ----------------------------------------------------------------------------------------------------


def image_broken(view: View) -> bool:
    return any(work.kind == "verify" and work.state == "failed" for work in view.store.works.values())


def _results(view: View) -> dict[str, dict[str, object]]:
    """Return what the finished verifications found, by target."""
    return {
        target: {"verified": True, "stored_bytes": work.stored_bytes, "sha256": work.sha256}
        for target, work in view.store.works.items()
        if work.kind == "verify" and work.state == "done"
    }


def new_result(view: View) -> bool:
    results = _results(view)
    return any(disk.target in results and not disk.verified for disk in view.run.disks)


def all_verified(view: View) -> bool:
    return all(disk.verified for disk in view.run.disks)


def to_verify(view: View) -> str:
    """Return the next disk whose verification is to be started, empty when all run or are done."""
    verifying = {target for target, work in view.store.works.items() if work.kind == "verify"}
    return next((disk.target for disk in view.run.disks if not disk.verified and disk.target not in verifying), "")


def an_image_waits(view: View) -> bool:
    return bool(to_verify(view))


def _verify(view: View) -> StartVerification:
    return StartVerification(to_verify(view))


def _verified(view: View) -> dict[str, object]:
    run = view.run
    for target, result in _results(view).items():
        run = run.with_disk(target, **result)
    return {"disks": run.disks}


def _broken(view: View) -> str:
    broken = ((target, work) for target, work in view.store.works.items() if work.kind == "verify")
    target, work = next((target, work) for target, work in broken if work.state == "failed")
    return f"VM {view.run.domain}, disk {target}: {work.error}"


def verify_reason(verify: Verify) -> Reason:
    return {Verify.NONE: Reason.NOT_REQUESTED, Verify.CHECK: Reason.CHECKED, Verify.CHECKSUM: Reason.CHECKSUMMED}[
        verify
    ]


# -- Publishing ---------------------------------------------------------------------------------------------------


def set_is_there(view: View) -> bool:
    return view.store.published


def nothing_to_publish(view: View) -> bool:
    return not view.store.partial


def maybe_published(view: View) -> bool:
    """Return whether the set may have its final name, in a location that cannot be looked at, and there is time."""
    hidden = bool(view.store.problem) and not view.store.partial
    wishes = view.facts.wishes
    in_time = not (wishes.cancel or wishes.deleted) and view.now <= view.run.deadline_at
    return hidden and view.run.named and in_time


def silent_for_now(view: View) -> bool:
    return location_silent(view) and not stalled(view)


def _named(_: View) -> dict[str, object]:
    return {"named": True}


def _publish(view: View) -> Publish:
    return Publish(view.run.point_in_time or view.run.attempt_started_at)


def _succeeded(view: View) -> dict[str, object]:
    # A set that is there is a success, whatever was wished after the rename.
    return {"outcome": Outcome.SUCCEEDED, "failure": None, "finished_at": view.now}


def _files_gone(view: View) -> str:
    if not view.store.problem:
        return f"VM {view.run.domain}: the files of the set are gone"
    unknown = f"VM {view.run.domain}: whether {view.run.set_path} was published cannot be seen: "
    return f"{unknown if view.run.named else ''}{view.store.problem}"


def _published_in_vain(view: View) -> str:
    return f"VM {view.run.domain}: {view.run.location_path}/{view.run.partial_path} was renamed, but is still there"


# -- Discarding ---------------------------------------------------------------------------------------------------


def may_discard(view: View) -> bool:
    return view.run.tries <= DISCARD_TRIES_MAX  # one more than the waits for the location: it may be back at last


def discard_refused(view: View) -> bool:
    return (failed(Discard)(view) or in_vain(Discard, _seen)(view)) and may_discard(view)


def _seen(view: View) -> bool:
    return view.store.partial


def _not_discarded(view: View) -> str:
    return view.error or f"{view.run.location_path}/{view.run.partial_path} is still there after its removal"


def out_of_reach(view: View) -> bool:
    """Return whether our directory may be there, in a location that cannot be used now."""
    hidden = bool(view.store.problem) and not view.store.partial
    return hidden and _unfinished_set(view) and view.run.tries < DISCARD_TRIES_MAX


def _unfinished_set(view: View) -> bool:
    return view.run.made and not done(Discard)(view)


def maybe_paused(view: View) -> bool:
    """Return whether our push job may have paused the guest for want of room, which cannot be seen now."""
    pushed = view.run.method is Method.PUSH and view.run.began
    return pushed and view.facts.domain is None and not view.run.paused


def _out_of_sight(view: View) -> str:
    return (
        f"VM {view.run.domain}: whether the guest was paused for an I/O error cannot be seen: "
        f"{view.facts.hypervisor_problem}"
    )


def something_left(view: View) -> bool:
    """Return whether a directory of ours is or may be there: one that is half made cannot be seen."""
    return (view.store.partial or not (view.store.problem or done(Discard)(view))) and may_discard(view)


def may_try_again(view: View) -> bool:
    """Return whether a new attempt can heal the failure before the deadline."""
    run = view.run
    if _unfinished_set(view):
        return False
    heals = run.outcome is Outcome.FAILED and run.failure is not None and run.failure.heals
    return heals and run.attempt < ATTEMPTS_MAX and view.now + attempt_rest_seconds(run) < run.deadline_at


def attempt_rest_seconds(run: Run) -> float:
    return ATTEMPT_REST_SECONDS[min(run.attempt, len(ATTEMPT_REST_SECONDS)) - 1]


def _next_attempt(view: View) -> dict[str, object]:
    rest = attempt_rest_seconds(view.run)
    return {"attempt": view.run.attempt + 1, "outcome": None, "not_before": view.now + rest, "made": False}


def _finished(view: View) -> dict[str, object]:
    run = view.run
    changes: dict[str, object] = {"finished_at": view.now}
    if not _unfinished_set(view):
        return changes
    assert run.failure is not None, "who gives up says why"
    message = run.failure.message
    why = "" if not run.trouble or run.trouble in message else f" ({run.trouble})"
    left = f"the unfinished set {run.location_path}/{run.partial_path} could not be removed{why}; it is tried again"
    return {**changes, "debris": True, "failure": run.failure.model_copy(update={"message": f"{message}; {left}"})}


UNUSABLE = because(Reason.LOCATION_UNUSABLE, location_problem, heals=True)
BROKEN = because(Reason.VERIFICATION_FAILED, _broken, heals=True)
IN_VAIN = because(Reason.PUBLISH_FAILED, _published_in_vain, heals=True)
FILES_GONE = because(Reason.PUBLISH_FAILED, _files_gone, heals=True)

ENDING: Table = {
    # The VM is as it was; only our files are worked on. A crash repeats the verification.
    Phase.VERIFYING: (
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule("location in trouble", location_in_trouble, Fail(UNUSABLE, Phase.DISCARDING)),
        Rule("an image is broken", image_broken, Fail(BROKEN, Phase.DISCARDING)),
        Rule("refused", failed(StartVerification), Fail(last_error(Reason.VERIFICATION_FAILED), Phase.DISCARDING)),
        Rule("a result", new_result, Write(_verified)),
        Rule("all verified", all_verified, Go(Phase.PUBLISHING)),
        Rule("an image to verify", an_image_waits, Act(_verify)),
        Rule("verifying", always, Wait(0.5, location_problem)),
    ),
    # One rename makes the set. After a crash: is the set there with our UID?
    Phase.PUBLISHING: (
        Rule("the set is there", set_is_there, Go(Phase.DONE, _succeeded)),
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule("perhaps there, out of reach", maybe_published, Wait(1.0, location_problem)),
        Rule("the location does not answer", silent_for_now, Wait(1.0, location_problem)),
        Rule("refused", failed(Publish), Fail(last_error(Reason.PUBLISH_FAILED), Phase.DISCARDING)),
        Rule("published in vain", in_vain(Publish, _seen), Fail(IN_VAIN, Phase.DISCARDING)),
        Rule("nothing to publish", nothing_to_publish, Fail(FILES_GONE, Phase.DISCARDING)),
        Rule("to be published", always, Act(_publish, _named)),
    ),
    # Only our own `.partial` directory is removed; published sets are never touched.
    Phase.DISCARDING: (
        Rule("resting", resting, Wait(1.0)),
        Rule("work under way", works_running, Act(lambda _: StopWorks())),
        Rule("discard refused", discard_refused, Retry(_not_discarded)),
        Rule("location out of reach", out_of_reach, Retry(location_problem)),
        Rule("something left", something_left, Act(lambda _: Discard())),
        Rule("the VM is out of sight", maybe_paused, Wait(1.0, _out_of_sight)),
        Rule("a new attempt may heal it", may_try_again, Go(Phase.ASSIGNED, _next_attempt)),
        Rule("over", always, Go(Phase.DONE, _finished)),
    ),
    # Between two attempts: nothing of ours is anywhere. tick() plans again when the rest is over.
    Phase.ASSIGNED: (
        Rule("giving up", giving_up, Go(Phase.DONE, _finished)),
        Rule("resting", always, Wait(1.0)),
    ),
    Phase.DONE: (Rule("over", always, End()),),
}
