"""VMBackups as their schedule sees them: how they ended, which sets they have, and what retention says of those."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vmbackup.api import names
from vmbackup.api.conditions import ConditionType, Reason, find
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.restore import VMRestore
from vmbackup.api.retention import Retention
from vmbackup.api.vmbackup import Outcome, VMBackup
from vmbackup.core.kstatus import cut, epoch
from vmbackup.core.retention import BackupSet, Floor, Verdict, judge

LONGEST_WORDS = 256
BROKEN = frozenset({Reason.VERIFICATION_FAILED, Reason.SET_BROKEN})  # the images are not what was published


@dataclass(frozen=True)
class Child:
    """One VMBackup as its schedule sees it. `at`: when it was made; `ended_at`: when it was over.

    schedule: name, empty for a VMBackup of nobody's. run: mark of its run. why: how it ended, in words, where that was
    no success. set: what retention counts, None without a published set. path: of the set, relative to the location.
    marked: retention has begun to remove it. booted_at, scrubbed_at: when the set was last put to these proofs.
    """

    name: str
    schedule: str
    run: str
    vm: str
    location: str
    at: float
    active: bool = False
    ended_at: float | None = None
    succeeded: bool = False
    why: str = ""
    set: BackupSet | None = None
    path: str = ""
    marked: bool = False
    booted_at: float | None = None
    scrubbed_at: float | None = None


def child_of(backup: VMBackup) -> Child:
    """Return what its schedule and retention want to know of a VMBackup."""
    metadata, status = backup.metadata, backup.status
    succeeded = status.outcome is Outcome.SUCCEEDED
    proved_at = {proof.kind: epoch(proof.time) for proof in status.proofs}
    return Child(
        name=metadata.name,
        schedule=metadata.labels.get(names.LABEL_SCHEDULE, ""),
        run=metadata.labels.get(names.LABEL_RUN, ""),
        vm=backup.spec.source.name,
        location=backup.spec.location,
        at=epoch(metadata.creation_timestamp) if metadata.creation_timestamp else 0.0,
        active=not backup.finished,
        ended_at=epoch(status.completion_time) if status.completion_time else None,
        succeeded=succeeded,
        why="" if succeeded or not backup.finished else _why(backup),
        set=_set(backup) if succeeded and backup.finished and not metadata.deletion_timestamp else None,
        path=status.set or "",
        marked=metadata.annotations.get(names.ANNOTATION_REMOVED_BY, "").startswith(names.RETENTION_OF),
        booted_at=proved_at.get("Boot"),
        scrubbed_at=proved_at.get("Scrub"),
    )


def used(child: Child, restores: Iterable[VMRestore]) -> Child:
    """Return the child with its set marked as in use when a restore of its namespace, not over yet, works with it."""
    if child.set is None:
        return child
    for restore in restores:
        source, status = restore.spec.source, restore.status
        by_path = child.path != "" and (status.location, status.set) == (child.location, child.path)
        if not restore.finished and (source.backup == child.name or by_path):
            return replace(child, set=replace(child.set, in_use=f"VMRestore {restore.metadata.name} works with it"))
    return child


def judge_children(
    children: Iterable[Child], retention: Retention, locations: Mapping[str, VMBackupLocation]
) -> dict[str, list[Verdict]]:
    """Return the verdict on every set by VM. Sets of one VM in different locations are different histories.

    Raises: ZoneInfoNotFoundError, ValueError, OSError: a time zone is none.
    """
    histories: dict[tuple[str, str], list[BackupSet]] = {}
    for child in children:
        if child.set is not None:
            histories.setdefault((child.vm, child.location), []).append(child.set)
    verdicts: dict[str, list[Verdict]] = {}
    for (vm, name), sets in sorted(histories.items()):
        location = locations.get(name)
        least = location.spec.retention if location else None
        floors = [Floor(f"location {name}", least)] if least else []
        verdicts.setdefault(vm, []).extend(judge(sets, retention, floors))
    return verdicts


def newest_ended(children: Iterable[Child]) -> dict[str, Child]:
    """Return the newest child of every VM that is not under way."""
    newest: dict[str, Child] = {}
    for child in sorted(children, key=lambda child: (child.at, child.name)):
        if not child.active:
            newest[child.vm] = child
    return newest


def surplus(children: Iterable[Child], limit: int) -> list[Child]:
    """Return the failed children of every VM beyond the newest ones, so many of each."""
    seen: dict[str, int] = {}
    found = []
    for child in sorted(children, key=lambda child: (child.at, child.name), reverse=True):
        if not child.active and not child.succeeded:
            seen[child.vm] = seen.get(child.vm, 0) + 1
            if seen[child.vm] > limit:
                found.append(child)
    return found


def _why(backup: VMBackup) -> str:
    condition = find(backup.status.conditions, ConditionType.SUCCEEDED)
    words = f": {condition.reason}: {condition.message}" if condition else ""
    return cut(f"{backup.status.outcome}{words}", LONGEST_WORDS)


def _set(backup: VMBackup) -> BackupSet:
    """Return the set of a VMBackup that succeeded; its time is when the node began, which is close to its moment."""
    verified = find(backup.status.conditions, ConditionType.VERIFIED)
    hold = backup.metadata.annotations.get(names.ANNOTATION_HOLD, "")
    return BackupSet(
        name=backup.metadata.name,
        at=epoch(backup.status.start_time or backup.metadata.creation_timestamp),
        verified=verified is not None and verified.status == "True",
        broken=verified is not None and verified.status == "False" and verified.reason in BROKEN,
        held="" if hold.lower() in ("", "false") else f"held by annotation {names.ANNOTATION_HOLD}: {hold}",
    )
