"""What the controller writes about a turn: binding and queue. After the binding the agent writes.

When a backup is over nobody writes but the controller again, and only which generation of the spec was seen.
"""

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Phase, VMBackupStatus
from vmbackup.core.kstatus import Stamp
from vmbackup.core.report import refused, waiting
from vmbackup.core.turns import Bind, Refuse, Turn, Wait


def status_of_turn(turn: Turn, now: float) -> VMBackupStatus:
    """Return the status of a backup after its turn; equal to the present one when there is nothing new to say."""
    backup = turn.backup
    stamp = Stamp(now, backup.metadata.generation)
    if isinstance(turn, Bind):
        message = f"Assigned to node {turn.node}; its agent takes over."
        assigned = waiting(backup.status, Reason.RUNNING, message, stamp)
        return assigned.model_copy(update={"node": turn.node, "phase": Phase.ASSIGNED})
    if isinstance(turn, Refuse):
        return refused(backup.status, turn.reason, turn.message, stamp)
    reason = turn.reason if isinstance(turn, Wait) else Reason.NODE_LOST
    return waiting(backup.status, reason, turn.message, stamp)


def seen(status: VMBackupStatus, generation: int) -> VMBackupStatus:
    """Return the status of a finished backup whose spec was changed since: a cancellation that came too late.

    Who waits for the resource compares generations, and would take it for work in progress for ever.
    """
    conditions = tuple(
        condition.model_copy(update={"observed_generation": generation}) for condition in status.conditions
    )
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})
