"""What the spine needs from the outside, as protocols: one adapter each, one fake each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vmbackup.api.journal import Run
from vmbackup.core.facts import DomainFacts, Facts, HostFacts, StoreFacts, Wishes
from vmbackup.core.steps import HypervisorStep, StoreStep

Wake = Callable[[], None]


class Hypervisor(Protocol):
    """The libvirt daemon that runs the VM."""

    def host(self) -> HostFacts:
        """Raises: NotYet: the daemon is away."""

    def find(self, domain: str) -> DomainFacts:
        """Return all that libvirt says of a domain; `state="absent"` when it knows none of that name.

        Raises: NotYet: the daemon is away.
        """

    def observe(self, run: Run) -> DomainFacts:
        """Return all that libvirt says of the VM of a run, found by its UUID. Changes nothing.

        Raises: NotYet: the daemon is away.
        """

    def perform(self, run: Run, step: HypervisorStep) -> int | None:
        """Do one act.

        Raises: NotYet: the daemon is away. Failed, Refused: it was tried and did not succeed.
        """

    def domain_xml(self, run: Run) -> str:
        """Return the domain's XML as libvirt would need it to define the VM again.

        Raises: NotYet: the daemon is away. Failed: no such VM.
        """


class Store(Protocol):
    """The location's directory on this node, the copies into it, and the overlays."""

    def observe(self, run: Run) -> StoreFacts:
        """Return what is there. Never raises for a location in trouble: `problem` says it in words."""

    def perform(self, run: Run, step: StoreStep) -> int | None:
        """Do one act. Long ones are only started: they show up as `Work`.

        Raises: Failed, Refused: it was tried and did not succeed.
        """


class Journal(Protocol):
    """The node's own record of what is under way."""

    def record(self, run: Run) -> None:
        """Put the record on disk, durable when this returns."""

    def forget(self, run: Run) -> None:
        """Remove the record of a run whose end was reported."""

    def runs(self) -> Sequence[Run]:
        """Return all records."""


class Ledger(Protocol):
    """Where users look: the resource's status, or a file."""

    def report(self, run: Run, facts: Facts) -> None:
        """Tell how the run stands. Never blocks and never raises: the last report wins."""

    def wishes(self, run: Run) -> Wishes:
        """Return what the user wants, from memory."""


class Clock(Protocol):
    def now(self) -> float:
        """Return seconds since the epoch."""


@dataclass(frozen=True)
class Ports:
    hypervisor: Hypervisor
    store: Store
    journal: Journal
    ledger: Ledger
    clock: Clock
