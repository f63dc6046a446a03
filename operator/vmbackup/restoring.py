"""The spine of restores: observe, decide, record, act, as in tick.py. One turn does at most one act."""

from collections.abc import Callable
from dataclasses import dataclass

from vmbackup.api.restore import RestorePhase
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.core.facts import DomainFacts
from vmbackup.core.restore import decide
from vmbackup.core.restore_facts import (
    Heartbeat,
    RestoreAct,
    RestoreDomainStep,
    RestoreFacts,
    RestorePorts,
    RestoreStep,
)
from vmbackup.core.restore_path import needs_hypervisor
from vmbackup.errors import Failed, VMBackupError

JOURNAL_REST_SECONDS = 2.0


@dataclass(frozen=True)
class Turn:
    """What a turn leaves for the next one. `wait_seconds` None: over."""

    run: RestoreRun
    last: RestoreAct | None = None
    wait_seconds: float | None = 0.0


def take_turn(ports: RestorePorts, turn: Turn) -> Turn:
    """Take one turn of a restore."""
    run, last = turn.run, turn.last
    facts = see(ports, run, last)
    move = decide(run, facts, ports.clock.now())
    if move.run != run:
        try:
            ports.journal.record(move.run)
        except Failed as full:
            told = run.model_copy(update={"trouble": full.message})
            ports.ledger.report(told, facts)
            return Turn(told, last, JOURNAL_REST_SECONDS)
    ports.ledger.report(move.run, facts)
    if move.step is None:
        unjudged = facts.domain is None and needs_hypervisor(run)
        return Turn(move.run, last if unjudged else None, move.wait_seconds)
    return Turn(move.run, perform(ports, move.run, move.step))


def drive(ports: RestorePorts, run: RestoreRun, pause: Callable[[float], None]) -> RestoreRun:
    """Take turns until the restore is over. `pause` waits at most so many seconds."""
    turn = Turn(run)
    while turn.wait_seconds is not None:
        if turn.wait_seconds:
            pause(turn.wait_seconds)
        turn = take_turn(ports, turn)
    return turn.run


def see(ports: RestorePorts, run: RestoreRun, last: RestoreAct | None) -> RestoreFacts:
    """Gather the facts; a hypervisor that is away is a fact too."""
    domain: DomainFacts | None = None
    heartbeat, problem = Heartbeat(), ""
    if needs_hypervisor(run):
        try:
            domain = ports.hypervisor.observe(run)
            if run.phase is RestorePhase.PROVING and domain.alive:
                heartbeat = ports.hypervisor.heartbeat(run)
        except VMBackupError as away:
            problem = away.message
    # The files come after the domain: when no job is seen, what it has left in them is seen, too.
    files = ports.store.observe(run)
    return RestoreFacts(files, domain, ports.ledger.wishes(run), last, problem, heartbeat)


def perform(ports: RestorePorts, run: RestoreRun, step: RestoreStep) -> RestoreAct:
    """Do one act; that it failed is a fact for the next turn."""
    try:
        if isinstance(step, RestoreDomainStep):
            ports.hypervisor.perform(run, step)
        else:
            ports.store.perform(run, step)
    except VMBackupError as error:
        return RestoreAct(step, error)
    return RestoreAct(step)
