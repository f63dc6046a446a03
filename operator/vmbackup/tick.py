"""The spine: observe, decide, record, act. One turn does at most one act.

A turn may end anywhere by a crash: the next one begins with what is seen, not with what was meant.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Run
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.decide import decide
from vmbackup.core.facts import Facts, LastAct
from vmbackup.core.plan import plan_again
from vmbackup.core.ports import Ports
from vmbackup.core.rules import Move, View, needs_hypervisor, resting
from vmbackup.core.steps import BeginPush, Discard, FreezeGuest, HypervisorStep, Step, TakeSnapshot
from vmbackup.errors import Failed, NotYet, Refused, VMBackupError

REPLAN_SECONDS = 5.0
JOURNAL_REST_SECONDS = 2.0
BEGINNINGS = (FreezeGuest, BeginPush, TakeSnapshot)


@dataclass(frozen=True)
class Turn:
    """What a turn leaves for the next one: the record, the act and its end, and when to look again."""

    run: Run
    last: LastAct | None = None
    wait_seconds: float | None = 0.0  # None: over
    stir: "Stir | None" = None
    held: Failed | None = None  # nothing goes on before the journal can be written again


@dataclass(frozen=True)
class Stir:
    """What was last seen to move, and when."""

    mark: object
    at: float


def tick(ports: Ports, turn: Turn) -> Turn:
    """Take one turn of a run."""
    run, last, now = turn.run, turn.last, ports.clock.now()
    facts = see(ports, run, last)
    stir = _stir(turn.stir, run, facts, now)
    facts = replace(facts, still_seconds=now - stir.at)
    if may_plan_again(run, facts, now):
        return replan(ports, run, facts)
    move = decide(run, facts, now)
    if move.run != run:
        try:
            ports.journal.record(move.run)
        except Failed as full:
            if not goes_on_unrecorded(run, move):
                told = unrecorded(run, full)
                ports.ledger.report(told, facts)
                return Turn(told, last, JOURNAL_REST_SECONDS, stir, full)
    ports.ledger.report(move.run, facts)
    if move.step is None:
        # What the last act said is kept until it could be judged: not while the hypervisor is away.
        unjudged = facts.domain is None and needs_hypervisor(run)
        return Turn(move.run, last if unjudged else None, move.wait_seconds, stir)
    return Turn(move.run, perform(ports, move.run, move.step), stir=stir)


def sweep(ports: Ports, run: Run) -> bool:
    """Remove what a run that is over had to leave in its location; return whether nothing is left."""
    if ports.store.observe(run).problem:
        return False
    return perform(ports, run, Discard()).error is None


def goes_on_unrecorded(run: Run, move: Move) -> bool:
    """Return whether a full journal holds nothing up: a VM that may be on our overlay or frozen is taken home.

    Where its disks are can be seen, and a thaw may be repeated. Nothing is begun without a record.
    """
    return (run.on_overlay or run.maybe_frozen) and not isinstance(move.step, BEGINNINGS)


def unrecorded(run: Run, full: Failed) -> Run:
    """Return a run whose next move could not be written down: it waits, but no guest stays frozen for that."""
    told = run.model_copy(update={"trouble": full.message})
    if not run.maybe_frozen or run.outcome is not None:
        return told
    failure = Failure(reason=Reason(full.reason), message=full.message, heals=True)
    return told.model_copy(update={"outcome": Outcome.FAILED, "failure": failure})


def drive(ports: Ports, run: Run, pause: Callable[[float], None]) -> Run:
    """Take turns until the run is over. `pause` waits at most so many seconds, less when something happened."""
    turn = Turn(run)
    while turn.wait_seconds is not None:
        if turn.wait_seconds:
            pause(turn.wait_seconds)
        turn = tick(ports, turn)
    return turn.run


def may_plan_again(run: Run, facts: Facts, now: float) -> bool:
    """Return whether the rest between two attempts is over."""
    waits = run.phase is Phase.ASSIGNED and run.outcome is None
    return waits and facts.domain is not None and not resting(View(run, facts, now))


def replan(ports: Ports, run: Run, facts: Facts) -> Turn:
    """Plan the next attempt from what is seen now; what stands in the way is told, and looked at again."""
    now = ports.clock.now()
    assert facts.domain is not None, "may_plan_again() has looked"
    try:
        fresh = plan_again(run, facts.domain, ports.hypervisor.host(), now)
        ports.journal.record(fresh)
    except (NotYet, Failed) as wait:
        fresh = run.model_copy(update={"not_before": now + REPLAN_SECONDS, "trouble": wait.message})
    except Refused as refusal:
        failure = Failure(reason=Reason(refusal.reason), message=refusal.message)
        fresh = run.model_copy(update={"outcome": Outcome.FAILED, "failure": failure})
    ports.ledger.report(fresh, facts)
    return Turn(fresh)


def see(ports: Ports, run: Run, last: LastAct | None) -> Facts:
    """Gather the facts; a hypervisor that is away is a fact too."""
    store = ports.store.observe(run)
    try:
        domain, problem = ports.hypervisor.observe(run), ""
    except VMBackupError as away:
        domain, problem = None, away.message
    # The wishes come last: a look at a busy VM may take half a minute.
    return Facts(domain, store, ports.ledger.wishes(run), last, problem)


def _stir(before: Stir | None, run: Run, facts: Facts, now: float) -> Stir:
    """Note whether anything moved: the phase, a job, a work. While the hypervisor is away nothing can be seen."""
    job = facts.domain.job if facts.domain else None
    block_jobs = [disk.job for disk in facts.domain.disks] if facts.domain else []
    mark = (run.phase, run.attempt, job, block_jobs, dict(facts.store.works))
    if before is None or facts.domain is None or mark != before.mark:
        return Stir(mark, now)
    return before


def perform(ports: Ports, run: Run, step: Step) -> LastAct:
    """Do one act; that it failed is a fact for the next turn."""
    try:
        if isinstance(step, HypervisorStep):
            return LastAct(step, value=ports.hypervisor.perform(run, step))
        return LastAct(step, value=ports.store.perform(run, step))
    except VMBackupError as error:
        return LastAct(step, error)
