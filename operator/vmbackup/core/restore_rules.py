"""What a row of a restore's phase table is made of: as `rules.py` for backups, with a restore's record and facts."""

from collections.abc import Callable
from dataclasses import dataclass

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure
from vmbackup.api.restore import RestorePhase
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.facts import DomainFacts
from vmbackup.core.restore_facts import RestoreFacts, RestoreFiles, RestoreStep
from vmbackup.core.rules import REST_SECONDS_MAX, rest_seconds
from vmbackup.errors import Failed, NotYet, Refused

TRIES_MAX = 5


@dataclass(frozen=True)
class View:
    """What a rule looks at: the record, the facts and the time."""

    run: RestoreRun
    facts: RestoreFacts
    now: float

    @property
    def domain(self) -> DomainFacts:
        assert self.facts.domain is not None, "decide() waits while the hypervisor is away"
        return self.facts.domain

    @property
    def files(self) -> RestoreFiles:
        return self.facts.files

    @property
    def error(self) -> str:
        last = self.facts.last
        return last.error.message if last and last.error else ""


@dataclass(frozen=True)
class Move:
    """What comes of a turn: the record to write, then at most one act, then how long to wait (None: for ever)."""

    run: RestoreRun
    step: RestoreStep | None = None
    wait_seconds: float | None = 0.0


Test = Callable[[View], bool]
Note = Callable[[View], dict[str, object]]
Effect = Callable[[View], Move]


@dataclass(frozen=True)
class Rule:
    """When `test` holds, `effect` follows. `seen` is the test in words. The first rule that holds is taken."""

    seen: str
    test: Test
    effect: Effect


def nothing(_: View) -> dict[str, object]:
    return {}


def go(to: Callable[[RestoreRun], RestorePhase] | RestorePhase, note: Note = nothing) -> Effect:
    """Enter another phase."""

    def effect(view: View) -> Move:
        phase = to if isinstance(to, RestorePhase) else to(view.run)
        fresh = {"phase": phase, "tries": 0, "not_before": 0.0, "trouble": "", **note(view)}
        return Move(view.run.model_copy(update=fresh))

    return effect


def act(step: Callable[[View], RestoreStep], note: Note = nothing) -> Effect:
    """Write the intent, then do one act."""
    return lambda view: Move(view.run.model_copy(update=note(view)), step(view))


def write(note: Note) -> Effect:
    """Change the record only."""
    return lambda view: Move(view.run.model_copy(update=note(view)))


def wait(seconds: float, words: Callable[[View], str] = lambda view: view.run.trouble) -> Effect:
    """Look again later. `words`: what is waited for, when a user would ask."""
    return lambda view: Move(view.run.model_copy(update={"trouble": words(view)}), wait_seconds=seconds)


def retry() -> Effect:
    """Note the failed try and rest before the next one: 1, 2, 4 … 30 seconds."""

    def effect(view: View) -> Move:
        rest = rest_seconds(view.run.tries)
        changes = {"tries": view.run.tries + 1, "not_before": view.now + rest, "trouble": view.error}
        return Move(view.run.model_copy(update=changes), wait_seconds=rest)

    return effect


def fail(failure: Callable[[View], Failure], to: RestorePhase = RestorePhase.DISCARDING) -> Effect:
    """Fix the outcome, and undo what was done. A refusal that comes first has touched nothing but files of ours."""

    def effect(view: View) -> Move:
        changes: dict[str, object] = {"phase": to, "tries": 0, "not_before": 0.0}
        if view.run.outcome is None:
            last = view.facts.last
            refused = last is not None and isinstance(last.error, Refused)
            changes |= {"outcome": Outcome.REFUSED if refused else Outcome.FAILED, "failure": failure(view)}
        return Move(view.run.model_copy(update=changes))

    return effect


def because(reason: Reason, message: Callable[[View], str]) -> Callable[[View], Failure]:
    return lambda view: Failure(reason=reason, message=message(view))


def last_error(view: View) -> Failure:
    """Return what the failed act said."""
    error = view.facts.last.error if view.facts.last else None
    known = error is not None and error.reason in set(Reason)
    return Failure(reason=Reason(error.reason) if known and error else Reason.RESTORE_FAILED, message=view.error)


def always(_: View) -> bool:
    return True


def giving_up(view: View) -> bool:
    return view.run.outcome is not None


def resting(view: View) -> bool:
    return 0.0 < view.run.not_before - view.now <= REST_SECONDS_MAX


def done(kind: type[RestoreStep]) -> Test:
    """Return a test for: the act of the turn before was of this kind and returned."""
    return lambda view: (
        view.facts.last is not None and isinstance(view.facts.last.step, kind) and view.facts.last.error is None
    )


def failed(kind: type[RestoreStep]) -> Test:
    """Return a test for: the act of the turn before was of this kind and raised."""
    return lambda view: (
        view.facts.last is not None and isinstance(view.facts.last.step, kind) and view.facts.last.error is not None
    )


def may_heal(kind: type[RestoreStep]) -> Test:
    """Return a test for: the act raised, and another try may succeed."""

    def test(view: View) -> bool:
        error = view.facts.last.error if view.facts.last else None
        heals = isinstance(error, NotYet) or (isinstance(error, Failed) and error.heals)
        return failed(kind)(view) and heals and (isinstance(error, NotYet) or view.run.tries < TRIES_MAX)

    return test
