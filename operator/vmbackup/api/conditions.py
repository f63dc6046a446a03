"""Conditions: a closed list of types and reasons, and the pure functions that change them.

kstatus rules: `Reconciling` and `Stalled` are present only when True; `Ready` is True only when the work is done well.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from vmbackup.api.model import Report
from vmbackup.api.schema import TIMESTAMP, keyed_by


class ConditionType(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SUCCEEDED = "Succeeded"
    QUIESCED = "Quiesced"
    VERIFIED = "Verified"
    SET_REMOVED = "SetRemoved"


class Reason(StrEnum):
    """Every reason that a condition or an Event of ours can carry."""

    # on the way
    QUEUED = "Queued"
    WAITING_FOR_VM = "WaitingForVM"
    VM_NOT_RUNNING = "VMNotRunning"
    FOREIGN_JOB = "ForeignJob"
    FOREIGN_SNAPSHOT = "ForeignSnapshot"
    NODE_LOST = "NodeLost"
    HYPERVISOR_AWAY = "HypervisorAway"
    LOCATION_NOT_READY = "LocationNotReady"
    RUNNING = "Running"
    RETRYING = "Retrying"
    GOING_HOME = "GoingHome"
    # ends
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"
    DELETED = "Deleted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    OVERLAY_LIMIT = "OverlayLimitReached"
    # refused: nothing was touched
    VM_NOT_FOUND = "VMNotFound"
    VM_AMBIGUOUS = "VMAmbiguous"
    DISK_NOT_FOUND = "DiskNotFound"
    DISK_UNSUPPORTED = "DiskUnsupported"
    NO_DISKS = "NoDisks"
    LOCATION_NOT_FOUND = "LocationNotFound"
    LOCATION_NOT_ALLOWED = "LocationNotAllowed"
    LOCATION_UNUSABLE = "LocationUnusable"
    METHOD_UNSUPPORTED = "MethodUnsupported"
    NO_SPACE = "NotEnoughSpace"
    QUIESCE_FAILED = "QuiesceFailed"
    SPEED_LIMIT_UNSUPPORTED = "SpeedLimitUnsupported"
    INVALID_SPEC = "InvalidSpec"
    # failed attempts
    BACKUP_JOB_FAILED = "BackupJobFailed"
    SNAPSHOT_FAILED = "SnapshotFailed"
    COPY_FAILED = "CopyFailed"
    COMMIT_FAILED = "CommitFailed"
    VERIFICATION_FAILED = "VerificationFailed"
    PUBLISH_FAILED = "PublishFailed"
    SOURCE_LOST = "SourceLost"
    OUTCOME_UNKNOWN = "OutcomeUnknown"
    INTERRUPTED = "Interrupted"
    STALLED = "Stalled"
    HYPERVISOR_ERROR = "HypervisorError"
    STORE_ERROR = "StoreError"
    # restores
    SET_NOT_FOUND = "SetNotFound"
    SET_BROKEN = "SetBroken"
    VM_EXISTS = "VMExists"
    VM_RUNNING = "VMRunning"
    TARGET_EXISTS = "TargetExists"
    TARGET_UNSUPPORTED = "TargetUnsupported"
    RESTORE_FAILED = "RestoreFailed"
    NO_HEARTBEAT = "NoHeartbeat"
    BOOTED = "Booted"
    # schedules
    SCHEDULED = "Scheduled"
    SUSPENDED = "Suspended"
    LAST_RUN_FAILED = "LastRunFailed"
    MISSED_RUNS = "MissedRuns"
    NAME_TAKEN = "NameTaken"
    CLOCK_JUMPED = "ClockJumped"
    # sets that are to be removed
    REMOVED = "Removed"
    REMOVAL_RECORDED = "RemovalRecorded"
    SET_IN_USE = "SetInUse"
    SET_KEPT = "SetKept"
    SET_LEFT = "SetLeft"
    RETENTION = "Retention"
    # a human must look
    OVERLAY_ORPHANED = "OverlayOrphaned"
    # quiesced and verified
    FROZEN = "Frozen"
    NOT_REQUESTED = "NotRequested"
    GUEST_AGENT_MISSING = "GuestAgentMissing"
    FREEZE_FAILED = "FreezeFailed"
    CHECKED = "Checked"
    CHECKSUMMED = "Checksummed"
    # locations and hosts
    READY = "Ready"
    AGENT_SILENT = "AgentSilent"
    NO_NODE = "NoNode"


class Condition(Report):
    """One thing that is so, is not so or is not known (a metav1.Condition)."""

    type: str = Field(max_length=64, description="What the condition is about, such as Ready or Succeeded.")
    status: Literal["True", "False", "Unknown"] = Field(
        description="Whether it is so: True, False, or Unknown while that is not decided."
    )
    reason: str = Field(max_length=128, description="Why it is so, in one CamelCase word for programs.")
    message: str = Field(default="", max_length=4096, description="Why it is so and what to do about it, for people.")
    last_transition_time: str = Field(
        max_length=32,
        description="When the status of this condition last changed (RFC 3339).",
        json_schema_extra=TIMESTAMP,
    )
    observed_generation: int = Field(
        default=0, ge=0, description="Generation of the resource that this condition speaks of."
    )


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        description="How the resource stands. Reconciling and Stalled are there only while they are True.",
        json_schema_extra=keyed_by("type"),
    ),
]


def find(conditions: Iterable[Condition], type_: ConditionType) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type_), None)


def put(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """Return the conditions with `new` in place of the one of its type.

    The transition time moves only when the status does.
    """
    old = next((condition for condition in conditions if condition.type == new.type), None)
    if old is None:
        return (*conditions, new)
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return tuple(new if condition.type == new.type else condition for condition in conditions)


def drop(conditions: tuple[Condition, ...], type_: ConditionType) -> tuple[Condition, ...]:
    return tuple(condition for condition in conditions if condition.type != type_)
