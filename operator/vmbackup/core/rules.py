"""What a row of a phase table is made of: data that `decide` reads and that the diagrams are drawn from."""

from collections.abc import Callable
from dataclasses import dataclass

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Run
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.facts import DomainFacts, Facts, StoreFacts
from vmbackup.core.steps import Step
from vmbackup.errors import Failed, NotYet

RETRY_SECONDS_MAX = 30.0
REST_SECONDS_MAX = 600.0  # nothing ever rests so long: what says so was written before the clock was set back


@dataclass(frozen=True)
class View:
    """What a rule looks at: the record, the facts and the time."""

    run: Run
    facts: Facts
    now: float

    @property
    def domain(self) -> DomainFacts:
        assert self.facts.domain is not None, "decide() waits while the hypervisor is away"
        return self.facts.domain

    @property
    def store(self) -> StoreFacts:
        return self.facts.store

    @property
    def error(self) -> str:
        last = self.facts.last
        return last.error.message if last and last.error else ""


@dataclass(frozen=True)
class Move:
    """What comes of a turn: the record to write, then at most one act, then how long to wait (None: for ever)."""

    run: Run
    step: Step | None = None
    wait_seconds: float | None = 0.0


Note = Callable[[View], dict[str, object]]
Test = Callable[[View], bool]


def nothing(_: View) -> dict[str, object]:
    return {}


def _noted(view: View, changes: dict[str, object]) -> Run:
    return view.run.model_copy(update=changes) if changes else view.run


@dataclass(frozen=True)
class Go:
    """Enter another phase."""

    to: Phase
    note: Note = nothing

    def move(self, view: View) -> Move:
        fresh: dict[str, object] = {"phase": self.to, "tries": 0, "not_before": 0.0, "trouble": ""}
        return Move(_noted(view, {**fresh, **self.note(view)}))


@dataclass(frozen=True)
class Act:
    """Write the intent, then do one act."""

    step: Callable[[View], Step]
    note: Note = nothing

    def move(self, view: View) -> Move:
        return Move(_noted(view, self.note(view)), self.step(view))


@dataclass(frozen=True)
class Write:
    """Change the record only."""

    note: Note

    def move(self, view: View) -> Move:
        return Move(_noted(view, self.note(view)))


@dataclass(frozen=True)
class Wait:
    """Look again later, or when an event arrives. `words`: what is waited for, when a user would ask."""

    seconds: float
    words: Callable[[View], str] = lambda view: view.run.trouble

    def move(self, view: View) -> Move:
        return Move(_noted(view, {"trouble": self.words(view)}), wait_seconds=self.seconds)


@dataclass(frozen=True)
class Retry:
    """Note the failed try and rest before the next one: 1, 2, 4 … 30 seconds."""

    why: Callable[[View], str] = lambda view: view.error

    def move(self, view: View) -> Move:
        rest = rest_seconds(view.run.tries)
        changes = {"tries": view.run.tries + 1, "not_before": view.now + rest, "trouble": self.why(view)}
        return Move(_noted(view, changes), wait_seconds=rest)


@dataclass(frozen=True)
class Fail:
    """Fix the outcome and take the way home that starts at `to`."""

    failure: Callable[[View], Failure]
    to: Phase
    outcome: Outcome = Outcome.FAILED

    def move(self, view: View) -> Move:
        changes: dict[str, object] = {"phase": self.to, "tries": 0, "not_before": 0.0}
        if view.run.outcome is None:
            # Refused tells that nothing was touched: not so when an earlier attempt was begun.
            refused = self.outcome is Outcome.REFUSED and view.run.attempt > 1
            outcome = Outcome.FAILED if refused else self.outcome
            changes |= {"outcome": outcome, "failure": self.failure(view)}
        return Move(_noted(view, changes))


@dataclass(frozen=True)
class End:
    """Nothing is left to do."""

    def move(self, view: View) -> Move:
        return Move(view.run, wait_seconds=None)


Effect = Go | Act | Write | Wait | Retry | Fail | End


@dataclass(frozen=True)
class Rule:
    """When `test` holds, `effect` follows. `seen` is the test in words. The first rule that holds is taken."""

    seen: str
    test: Test
    effect: Effect


Table = dict[Phase, tuple[Rule, ...]]


def because(reason: Reason, message: Callable[[View], str], *, heals: bool = False) -> Callable[[View], Failure]:
    return lambda view: Failure(reason=reason, message=message(view), heals=heals)


def last_error(reason: Reason) -> Callable[[View], Failure]:
    """Return what the failed act said; its own reason when it has one of ours, else `reason`."""

    def failure(view: View) -> Failure:
        error = view.facts.last.error if view.facts.last else None
        known = error is not None and error.reason in set(Reason)
        heals = isinstance(error, NotYet) or (isinstance(error, Failed) and error.heals)
        return Failure(reason=Reason(error.reason) if known and error else reason, message=view.error, heals=heals)

    return failure


def always(_: View) -> bool:
    return True


def giving_up(view: View) -> bool:
    """Return whether the outcome is fixed: then only the way home is left."""
    return view.run.outcome is not None


def rest_seconds(tries: int) -> float:
    """Return the rest after so many tries: 1, 2, 4 … 30 seconds. A VM may wait for days to come home."""
    return min(2.0 ** min(tries, 10), RETRY_SECONDS_MAX)


def resting(view: View) -> bool:
    """Return whether the next try must wait."""
    return 0.0 < view.run.not_before - view.now <= REST_SECONDS_MAX


def failed(kind: type[Step]) -> Test:
    """Return a test for: the act of the turn before was of this kind and raised."""
    return lambda view: (
        view.facts.last is not None and isinstance(view.facts.last.step, kind) and bool(view.facts.last.error)
    )


def done(kind: type[Step]) -> Test:
    """Return a test for: the act of the turn before was of this kind and returned."""
    return lambda view: (
        view.facts.last is not None and isinstance(view.facts.last.step, kind) and not (view.facts.last.error)
    )


def works_running(view: View) -> bool:
    return any(work.state == "running" for work in view.store.works.values())


def in_vain(kind: type[Step], still: Test) -> Test:
    """Return a test for: the act of the turn before returned, but what it was to change is still as it was."""
    return lambda view: done(kind)(view) and still(view)


def vm_gone(view: View) -> bool:
    """Return whether the QEMU process that the run began with is no more."""
    return not view.domain.alive or view.domain.instance != view.run.instance


def refused_by_the_dead(kind: type[Step]) -> Test:
    """Return a test for: the act was refused, and its QEMU is no more: what libvirt said of it is no lasting obstacle.

    libvirt 9.0 answers a backup of a VM that is off with "operation not supported", as if it could never be done.
    """
    return lambda view: failed(kind)(view) and vm_gone(view)


def stalled(view: View) -> bool:
    return view.facts.still_seconds > view.run.stall_seconds


def location_in_trouble(view: View) -> bool:
    """Return whether the location cannot be used. One that only does not answer may do so again: it is given time."""
    return bool(view.store.problem) and (stalled(view) or not location_silent(view))


def location_silent(view: View) -> bool:
    """Return whether the location does not answer, so that nothing is known of what it holds."""
    return view.store.silent


def location_problem(view: View) -> str:
    return view.store.problem


# What is done there touches files of ours only: libvirt may be away meanwhile.
OUR_FILES_ONLY = frozenset({Phase.VERIFYING, Phase.PUBLISHING, Phase.DISCARDING, Phase.ASSIGNED, Phase.DONE})


def needs_hypervisor(run: Run) -> bool:
    """Return whether the next move of a run cannot be decided without a look at the VM."""
    return run.phase not in OUR_FILES_ONLY or run.maybe_frozen


def tight(view: View) -> bool:
    """Return whether the location has no more room than it must keep."""
    return not view.store.problem and view.store.free_bytes <= view.store.reserve_bytes
