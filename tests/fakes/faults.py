"""Errors that a fake raises when told to."""

from typing import Any

from vmbackup.errors import VMBackupError

Faults = dict[Any, VMBackupError | list[VMBackupError]]  # by class of step, or name of method


def strike(faults: Faults, key: object) -> None:
    """Raise what is planned for `key`: an error every time, a list of errors one after the other until it is empty.

    Raises: VMBackupError: whatever was planned.
    """
    planned = faults.get(key)
    if isinstance(planned, list):
        planned = planned.pop(0) if planned else None
    if planned is not None:
        raise planned
