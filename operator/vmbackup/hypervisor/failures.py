"""One table: from libvirt's error codes to what happens next."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import libvirt

from vmbackup.api.conditions import Reason
from vmbackup.errors import Failed, NotYet, Refused, VMBackupError

AWAY_ADVICE = "We look again; see whether the daemon runs."


class Row(NamedTuple):
    """`reason` None: the reason of the act. `heals` counts for Failed: whether another try may succeed."""

    kind: type[NotYet] | type[Refused] | type[Failed]
    reason: Reason | None
    advice: str
    heals: bool = False


# Codes as seen on libvirt 7.0, 9.0 and 11.3. A code that is missing here is a failed act that may heal.
TABLE: dict[int, Row] = {
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Row(
        NotYet, Reason.FOREIGN_JOB, "Another operation holds the VM (`virsh domjobinfo`); we try again."
    ),
    libvirt.VIR_ERR_INVALID_CONN: Row(NotYet, Reason.HYPERVISOR_AWAY, AWAY_ADVICE),
    libvirt.VIR_ERR_NO_CONNECT: Row(NotYet, Reason.HYPERVISOR_AWAY, "Check the libvirt URI of the agent."),
    libvirt.VIR_ERR_AUTH_FAILED: Row(
        NotYet, Reason.HYPERVISOR_AWAY, "Let the agent's user in (libvirt group, polkit)."
    ),
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Row(
        NotYet, Reason.HYPERVISOR_AWAY, "Let the agent's user in (libvirt group, polkit)."
    ),
    libvirt.VIR_ERR_NO_DOMAIN: Row(Failed, Reason.VM_NOT_FOUND, "The VM was undefined or moved away."),
    libvirt.VIR_ERR_INVALID_ARG: Row(Failed, None, "The VM is not as we saw it; we look again."),
    libvirt.VIR_ERR_OPERATION_INVALID: Row(Failed, None, "The VM is not as we saw it; we look again.", heals=True),
    libvirt.VIR_ERR_BLOCK_COPY_ACTIVE: Row(Failed, None, "A block job is under way; it must end first.", heals=True),
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Row(Failed, None, "Leave the disk out, or change it."),
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Row(Failed, None, "This libvirt or QEMU cannot do it."),
    libvirt.VIR_ERR_NO_SUPPORT: Row(Refused, Reason.METHOD_UNSUPPORTED, "This libvirt is too old for it."),
    libvirt.VIR_ERR_ACCESS_DENIED: Row(Refused, None, "libvirt's access driver forbids it: allow it to the agent."),
    libvirt.VIR_ERR_OPERATION_DENIED: Row(Refused, None, "The connection is read-only: use another URI."),
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Row(Failed, None, "The VM lacks a device that this needs."),
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: Row(
        Failed, None, "See whether qemu-guest-agent runs in the guest; if it does, restart libvirtd.", heals=True
    ),
}
OTHER = Row(Failed, None, "See the log of libvirtd and of the VM.", heals=True)
AWAY = Row(NotYet, Reason.HYPERVISOR_AWAY, AWAY_ADVICE)
NOT_RUNNING = Row(Failed, Reason.VM_NOT_RUNNING, "The VM was stopped.", heals=True)


@contextmanager
def attempt(what: str, reason: Reason = Reason.HYPERVISOR_ERROR) -> Iterator[None]:
    """Turn what libvirt raises inside into one of ours. `what` names the VM, the disk and the act.

    Raises: NotYet: the daemon is away, or another operation holds the VM. Failed, Refused: libvirt did not do it.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, what, reason) from error


def translate(error: libvirt.libvirtError, what: str, reason: Reason) -> VMBackupError:
    """Return our error for libvirt's; `reason` is the act's own, used where the code says no more."""
    row = _row(error)
    code = error.get_error_code()
    message = f"{what}: libvirt says: {error.get_error_message() or error} (error {code}). {row.advice}"
    if row.kind is Failed:
        return Failed(row.reason or reason, message, heals=row.heals)
    return row.kind(row.reason or reason, message)


def _row(error: libvirt.libvirtError) -> Row:
    code, domain = error.get_error_code(), error.get_error_domain()
    if domain == libvirt.VIR_FROM_RPC and code not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG):
        # Errors of the connection itself: the socket is closed, cannot be opened, or has timed out.
        return AWAY
    if is_not_running(error):
        return NOT_RUNNING
    return TABLE.get(code, OTHER)


def is_code(error: libvirt.libvirtError, *codes: int) -> bool:
    """Tell whether libvirt, not the connection to it, answered with one of these codes."""
    return error.get_error_domain() != libvirt.VIR_FROM_RPC and error.get_error_code() in codes


def is_not_running(error: libvirt.libvirtError) -> bool:
    """Tell whether libvirt refused because the VM is off; other invalid operations come from the QEMU driver."""
    return (error.get_error_domain(), error.get_error_code()) == (
        libvirt.VIR_FROM_DOMAIN,
        libvirt.VIR_ERR_OPERATION_INVALID,
    )
