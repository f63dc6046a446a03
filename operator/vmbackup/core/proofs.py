"""Proofs of sets: which are due for a schedule, and what the VMBackup of a set says of them."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vmbackup.api import names
from vmbackup.api.conditions import ConditionType, Reason, find
from vmbackup.api.restore import RestoreKind, VMRestore
from vmbackup.api.schedule import VMBackupSchedule
from vmbackup.api.vmbackup import Outcome, ProofRecord, VMBackupStatus
from vmbackup.core.children import BROKEN, Child
from vmbackup.core.kstatus import Stamp, Truth, cut, epoch, state

Kind = Literal["Boot", "Scrub"]
VERDICTS = BROKEN | {Reason.NO_HEARTBEAT}  # what says something of the set, and not of the node or the request
KEPT_SECONDS = 7 * 86400  # a VMRestore that is over
RETRY_SECONDS = 3600.0  # after a proof that could not run; twice that after two, and so on, a day at most


@dataclass(frozen=True)
class Tried:
    """Proofs of a schedule that were begun: kinds under way, and those that found nothing, by kind and VMBackup."""

    busy: frozenset[Kind] = frozenset()
    in_vain: Mapping[tuple[Kind, str], tuple[float, ...]] = field(default_factory=dict)

    def rests(self, kind: Kind, backup: str, now: float) -> bool:
        """Return whether the next try of a proof is not due yet."""
        ends = self.in_vain.get((kind, backup), ())
        return bool(ends) and now - max(ends) < RETRY_SECONDS * min(len(ends), 24)


@dataclass(frozen=True)
class Proposal:
    """A proof that is due. `name`: of the VMRestore; the same for the same proof, so that none is made twice."""

    name: str
    kind: Kind
    child: Child


def due(schedule: VMBackupSchedule, children: Collection[Child], tried: Tried, now: float) -> list[Proposal]:
    """Return the proofs to begin now."""
    policy, found = schedule.spec.proof, list[Proposal]()
    if policy is None:
        return found

    def propose(kind: Kind, child: Child, number: int) -> None:
        if not tried.rests(kind, child.name, now):
            last = max(tried.in_vain.get((kind, child.name), (0.0,)))
            found.append(_proposal(schedule, kind, child, number, int(last)))

    whole = [child for child in children if child.set is not None and not child.set.broken and not child.marked]
    if policy.boot is not None and "Boot" not in tried.busy:
        booted: dict[str, float] = {}
        newest: dict[str, Child] = {}
        for child in sorted(whole, key=lambda child: (child.at, child.name)):
            newest[child.vm] = child
            booted[child.vm] = max(booted.get(child.vm, 0.0), child.booted_at or 0.0)
        for vm, child in sorted(newest.items()):
            if child.booted_at is None and now - booted[vm] >= policy.boot.interval_seconds:
                propose("Boot", child, 0)
    if policy.scrub is not None and "Scrub" not in tried.busy:
        interval = policy.scrub.interval_seconds
        old = [child for child in whole if now - _read_at(child) >= interval]
        awake = [child for child in old if not tried.rests("Scrub", child.name, now)]
        for child in sorted(awake, key=lambda child: (_read_at(child), child.name))[:1]:
            propose("Scrub", child, int(_read_at(child)))
    return found


def _read_at(child: Child) -> float:
    """Return when all of a set was last read or written."""
    return max(child.ended_at or child.at, child.scrubbed_at or 0.0)


def _proposal(schedule: VMBackupSchedule, kind: Kind, child: Child, number: int, last: int) -> Proposal:
    again = f"/{last}" if last else ""
    digest = hashlib.sha256(f"{child.name}/{child.at}/{number}{again}".encode()).hexdigest()[:10]
    return Proposal(f"{schedule.metadata.name}-{kind.lower()}-{digest}", kind, child)


def restore_body(schedule: VMBackupSchedule, proposal: Proposal, uid: str) -> dict[str, Any]:
    """Return the VMRestore of a proof. It goes with the VMBackup whose set it proves. uid: of that."""
    policy = schedule.spec.proof
    assert policy is not None, "without a policy nothing is due"
    proof: dict[str, Any] = {"kind": proposal.kind}
    spec: dict[str, Any] = {
        "source": {"backup": proposal.child.name},
        "target": {"proof": proof},
        "ttlSecondsAfterFinished": KEPT_SECONDS,
    }
    if proposal.kind == "Boot" and policy.boot is not None:
        proof |= policy.boot.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"interval_seconds"})
        spec["verify"] = "Check"
    elif policy.scrub is not None:
        spec["maxBytesPerSecond"] = policy.scrub.max_bytes_per_second
    owner = {"apiVersion": names.API_VERSION, "kind": "VMBackup", "name": proposal.child.name, "uid": uid}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "VMRestore",
        "metadata": {
            "name": proposal.name,
            "namespace": schedule.metadata.namespace,
            "labels": {names.LABEL_SCHEDULE: schedule.metadata.name},
            "ownerReferences": [owner | {"controller": False, "blockOwnerDeletion": False}],
        },
        "spec": spec,
    }


def tried(schedule: VMBackupSchedule, restores: Iterable[VMRestore]) -> Tried:
    """Return what was begun for a schedule. restores: of its namespace."""
    busy, in_vain = set[Kind](), dict[tuple[Kind, str], tuple[float, ...]]()
    for restore in restores:
        proof, status = restore.spec.target.proof, restore.status
        if proof is None or restore.metadata.labels.get(names.LABEL_SCHEDULE) != schedule.metadata.name:
            continue
        if not restore.finished:
            busy.add(proof.kind)
        elif record_of(restore) is None:
            key = proof.kind, restore.spec.source.backup or ""
            in_vain[key] = (*in_vain.get(key, ()), epoch(status.completion_time) if status.completion_time else 0.0)
    return Tried(frozenset(busy), in_vain)


def record_of(restore: VMRestore) -> ProofRecord | None:
    """Return what a proof that is over has found of the set, None when it found nothing, or was none."""
    status, proof = restore.status, restore.spec.target.proof
    verified = find(status.conditions, ConditionType.VERIFIED)
    if status.kind is not RestoreKind.PROOF or proof is None or verified is None or not status.completion_time:
        return None
    succeeded = status.outcome is Outcome.SUCCEEDED
    if not restore.finished or (not succeeded and verified.reason not in VERDICTS):
        return None
    found = status.proof
    return ProofRecord(
        kind=proof.kind,
        succeeded=succeeded,
        time=status.completion_time,
        heartbeat=found.heartbeat if found else "",
        seconds=found.seconds if found else 0,
        evidence=found.evidence[-1024:] if found else "",
        message=cut(f"{verified.reason}: {verified.message}" if verified.message else verified.reason, 1024),
        restore=restore.metadata.name,
    )


def with_proof(status: VMBackupStatus, record: ProofRecord, stamp: Stamp) -> VMBackupStatus:
    """Return the status of a VMBackup after a proof of its set; the same when a newer one of that kind is known.

    Verified follows what says most: a set that was once found broken stays so, and one that does not boot is not
    verified by being read.
    """
    known = {one.kind: one for one in status.proofs}
    if record.kind in known and known[record.kind].time >= record.time:
        return status
    known[record.kind] = record
    conditions, before = status.conditions, find(status.conditions, ConditionType.VERIFIED)
    reason = record.message.partition(":")[0]
    settled = before is not None and before.status == "False" and before.reason in BROKEN
    boot = known.get("Boot")
    if not settled and (record.kind == "Boot" or reason in BROKEN or boot is None):
        truth: Truth = "True" if record.succeeded else "False"
        words = f"VMRestore {record.restore}, {record.time}: {record.message.partition(': ')[2] or 'the set was read'}"
        conditions = state(conditions, ConditionType.VERIFIED, truth, reason, words, stamp)
    proofs = tuple(known[kind] for kind in sorted(known))
    return status.model_copy(update={"proofs": proofs, "conditions": conditions})
