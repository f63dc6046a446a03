"""A proof: what counts as a sign of life of the booted copy, and the result that is written into the set."""

from vmbackup.api.conditions import Reason
from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_journal import ProofResult
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.restore_facts import WriteProof
from vmbackup.core.restore_rules import (
    Move,
    Rule,
    View,
    act,
    always,
    because,
    done,
    fail,
    failed,
    giving_up,
    go,
    wait,
    write,
)
from vmbackup.core.restore_seen import LOOK_SECONDS, off, starts_here
from vmbackup.units import human_seconds

P = RestorePhase


def heartbeat(view: View) -> str:
    """Return what shows that the copy lives, empty when nothing does yet."""
    proof = view.run.spec.target.proof
    assert proof is not None, "only proofs are proving"
    if view.facts.heartbeat.agent:
        return "GuestAgent"
    if proof.serial_pattern is not None:
        return "SerialPattern" if proof.serial_pattern in view.files.serial_tail else ""
    alive = view.now - (view.run.running_at or view.now) >= proof.alive_seconds
    return "DiskActivity" if alive and view.facts.heartbeat.read_bytes > 0 else ""


def proved(view: View) -> bool:
    return starts_here(view) and bool(heartbeat(view))


def overdue(view: View) -> bool:
    proof = view.run.spec.target.proof
    return proof is not None and view.now - (view.run.running_at or view.now) > proof.boot_seconds


def result(view: View, heartbeat: str) -> dict[str, object]:
    seconds = round(view.now - (view.run.running_at or view.now))
    return {"proof": ProofResult(heartbeat=heartbeat, seconds=seconds, evidence=view.files.serial_tail[-4000:])}


def note_proof(view: View) -> dict[str, object]:
    return {"outcome": Outcome.SUCCEEDED, **result(view, heartbeat(view))}


def no_heartbeat(words: str) -> "Rule":
    test = off if words == "ended" else overdue
    said = {
        "ended": lambda v: f"VM {v.run.vm}: the booted copy ended by itself before it gave a sign of life",
        "overdue": lambda v: (
            f"VM {v.run.vm}: the booted copy gave no sign of life within "
            f"{human_seconds(v.now - (v.run.running_at or v.now))} (guest agent, serial pattern or disk reads); see "
            "status.proof.evidence"
        ),
    }[words]

    def effect(view: View) -> Move:
        move = fail(because(Reason.NO_HEARTBEAT, said))(view)
        return Move(move.run.model_copy(update=result(view, "None")))

    return Rule(f"no heartbeat, {words}", test, effect)


def result_to_write(view: View) -> bool:
    run = view.run
    decided = run.outcome is Outcome.SUCCEEDED or (
        run.failure is not None and run.failure.reason in (Reason.NO_HEARTBEAT, Reason.VERIFICATION_FAILED)
    )
    return run.kind is RestoreKind.PROOF and decided and not run.proof_written


PROVING: tuple[Rule, ...] = (
    Rule("giving up", giving_up, go(P.DISCARDING)),
    Rule("a sign of life", proved, go(P.DISCARDING, note_proof)),
    no_heartbeat("ended"),
    no_heartbeat("overdue"),
    Rule("waiting for a sign of life", always, wait(LOOK_SECONDS)),
)

WRITING: tuple[Rule, ...] = (
    Rule(
        "result to be written",
        lambda v: result_to_write(v) and done(WriteProof)(v),
        write(lambda _: {"proof_written": True}),
    ),
    Rule(
        "result cannot be written",
        lambda v: result_to_write(v) and failed(WriteProof)(v),
        write(lambda v: {"proof_written": True, "left": f"The result was not written into the set: {v.error}"}),
    ),
    Rule("to be written", result_to_write, act(lambda _: WriteProof())),
)
