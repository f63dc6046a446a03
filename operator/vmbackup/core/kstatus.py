"""Conditions as kstatus reads them: work in progress, done well, ended without success.

`Reconciling` and `Stalled` are present only when True. A terminal failure without `Stalled` would look like work
still in progress for ever. [kubernetes-sigs/cli-utils, pkg/kstatus/README.md]
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from vmbackup.api.conditions import Condition, ConditionType, Reason, drop, put

LONGEST_MESSAGE = 4096
LONGEST_REASON = 512
Conditions = tuple[Condition, ...]
Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Stamp:
    """What every condition carries. `now` in seconds since the epoch."""

    now: float
    generation: int = 0


def in_progress(conditions: Conditions, reason: str, message: str, stamp: Stamp) -> Conditions:
    """Return the conditions of work that has not ended: nothing is known of its success."""
    conditions = drop(conditions, ConditionType.STALLED)
    conditions = state(conditions, ConditionType.RECONCILING, "True", reason, message, stamp)
    conditions = state(conditions, ConditionType.READY, "False", reason, message, stamp)
    return state(conditions, ConditionType.SUCCEEDED, "Unknown", reason, message, stamp)


def done_well(conditions: Conditions, message: str, stamp: Stamp) -> Conditions:
    """Return the conditions of work that ended as asked."""
    conditions = drop(drop(conditions, ConditionType.STALLED), ConditionType.RECONCILING)
    conditions = state(conditions, ConditionType.READY, "True", Reason.COMPLETED, message, stamp)
    return state(conditions, ConditionType.SUCCEEDED, "True", Reason.COMPLETED, message, stamp)


def ended_badly(conditions: Conditions, reason: str, message: str, stamp: Stamp) -> Conditions:
    """Return the conditions of work that ended without success: failed, refused, cancelled or stranded."""
    conditions = drop(conditions, ConditionType.RECONCILING)
    conditions = state(conditions, ConditionType.STALLED, "True", reason, message, stamp)
    conditions = state(conditions, ConditionType.READY, "False", reason, message, stamp)
    return state(conditions, ConditionType.SUCCEEDED, "False", reason, message, stamp)


def state(
    conditions: Conditions, type_: ConditionType, truth: Truth, reason: str, message: str, stamp: Stamp
) -> Conditions:
    """Return the conditions with one stated anew; its transition time moves only with its truth."""
    new = Condition(
        type=type_,
        status=truth,
        reason=reason,
        message=cut(message, LONGEST_MESSAGE),
        last_transition_time=rfc3339(stamp.now),
        observed_generation=stamp.generation,
    )
    return put(conditions, new)


def cut(text: str, longest: int) -> str:
    """Return the text, shortened with an ellipsis when it is longer than a field may be."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def rfc3339(at: float) -> str:
    """Return a time as Kubernetes writes it, in whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch(text: str) -> float:
    """Return the seconds since the epoch of an RFC 3339 time.

    Raises: ValueError: it is none.
    """
    return datetime.fromisoformat(text).timestamp()
