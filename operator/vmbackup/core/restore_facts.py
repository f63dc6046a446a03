"""What was seen of a restore at one moment, what may be done in it, and what its spine needs from the outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vmbackup.api.restore_journal import RestoreRun
from vmbackup.core.facts import DomainFacts, Wishes, Work
from vmbackup.core.ports import Clock
from vmbackup.core.steps import StartCopy, StartVerification, StopWorks
from vmbackup.errors import VMBackupError

# -- steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    """Check set, space and target once more; protect the set; make the working directory (and overlays)."""


@dataclass(frozen=True)
class Place:
    """Rename the working directory to its final name."""


@dataclass(frozen=True)
class Swap:
    """In place: keep the old image under another name and give its name to the new one, in one rename."""

    target: str


@dataclass(frozen=True)
class SwapBack:
    """In place: give the old image its name back."""

    target: str


@dataclass(frozen=True)
class Release:
    """Remove old images (unless they are kept) and the protection of the set."""


@dataclass(frozen=True)
class RemoveFiles:
    """Remove every file that this restore has made, and the protection of the set."""


@dataclass(frozen=True)
class Flatten:
    """Instant, with the guest off: put the image over the set again, then bring all that it lacks."""

    target: str


@dataclass(frozen=True)
class WriteProof:
    """Write the result of a proof beside the manifest."""


@dataclass(frozen=True)
class Define:
    """Define the new domain on the restored images; its name must be free."""


@dataclass(frozen=True)
class StartDomain:
    """Start the domain; a proof's is transient."""


@dataclass(frozen=True)
class StartPull:
    """Bring the data of one disk from the set: virDomainBlockPull."""

    target: str


@dataclass(frozen=True)
class FlushDisks:
    """Pause the guest for a moment and let it go on: QEMU flushes all images when it stops a guest."""


@dataclass(frozen=True)
class ResumeDomain:
    """Let a guest go on that we have paused."""


@dataclass(frozen=True)
class RemoveDomain:
    """Stop and undefine the domain that this restore has made."""


RestoreStoreStep = (
    Prepare
    | StartCopy
    | StartVerification
    | StopWorks
    | Place
    | Swap
    | SwapBack
    | Release
    | RemoveFiles
    | Flatten
    | WriteProof
)
RestoreDomainStep = Define | StartDomain | StartPull | FlushDisks | ResumeDomain | RemoveDomain
RestoreStep = RestoreStoreStep | RestoreDomainStep

# -- facts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RestoreFiles:
    """What set and images look like. `problem`: why they cannot be looked at. Keys of `works` are disk targets."""

    problem: str = ""
    working: bool = False
    placed: bool = False
    swapped: frozenset[str] = frozenset()  # in place: the new image has the name, the old one is beside it
    used: frozenset[str] = frozenset()  # in place: swapped, and QEMU has the old image open
    flat: frozenset[str] = frozenset()  # images whose header names nothing below them
    works: Mapping[str, Work] = field(default_factory=dict)
    serial_tail: str = ""


@dataclass(frozen=True)
class Heartbeat:
    """What an isolated copy shows of its life."""

    agent: bool = False
    read_bytes: int = 0


@dataclass(frozen=True)
class RestoreAct:
    """The act of the turn before, and how it ended. Lost with the process: then only facts speak."""

    step: RestoreStep
    error: VMBackupError | None = None


@dataclass(frozen=True)
class RestoreFacts:
    """`domain` is None while the hypervisor is away, and where no domain is concerned."""

    files: RestoreFiles
    domain: DomainFacts | None = None
    wishes: Wishes = field(default_factory=Wishes)
    last: RestoreAct | None = None
    hypervisor_problem: str = ""
    heartbeat: Heartbeat = field(default_factory=Heartbeat)


# -- ports --------------------------------------------------------------------------------------------------------


class RestoreHypervisor(Protocol):
    """The libvirt daemon that gets the restored VM."""

    def observe(self, run: RestoreRun) -> DomainFacts:
        """Return what libvirt says of the restore's domain, found by its UUID; `state="absent"` when there is none.

        Raises: NotYet: the daemon is away.
        """

    def heartbeat(self, run: RestoreRun) -> Heartbeat:
        """Return what the running copy shows of its life. Raises: NotYet: the daemon is away."""

    def perform(self, run: RestoreRun, step: RestoreDomainStep) -> None:
        """Do one act. Raises: NotYet, Failed, Refused: it did not succeed."""


class RestoreStore(Protocol):
    """The set, and the files that are made from it."""

    def observe(self, run: RestoreRun) -> RestoreFiles:
        """Return what is there. Never raises: `problem` says what is wrong."""

    def perform(self, run: RestoreRun, step: RestoreStoreStep) -> None:
        """Do one act; long ones are only started. Raises: Failed, Refused: it did not succeed."""


class RestoreJournal(Protocol):
    def record(self, run: RestoreRun) -> None:
        """Put the record on disk, durable when this returns. Raises: Failed."""

    def forget(self, run: RestoreRun) -> None:
        """Remove the record of a restore whose end was reported."""

    def runs(self) -> Sequence[RestoreRun]:
        """Return all records."""


class RestoreLedger(Protocol):
    def report(self, run: RestoreRun, facts: RestoreFacts) -> None:
        """Tell how the restore stands. Never blocks and never raises."""

    def wishes(self, run: RestoreRun) -> Wishes:
        """Return what the user wants, from memory."""


@dataclass(frozen=True)
class RestorePorts:
    hypervisor: RestoreHypervisor
    store: RestoreStore
    journal: RestoreJournal
    ledger: RestoreLedger
    clock: Clock
