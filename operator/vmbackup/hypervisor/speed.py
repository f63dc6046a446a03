"""Slowing a running push job down, on daemons that let it through and on those that do not.

blockJobSetSpeed works at once on libvirt 9.0. On 11.3 it waits for the job lock that the backup itself holds, for 30
seconds, and never takes effect. QEMU can do it on both, through the monitor; that taints the domain, so an
administrator must allow it.
"""

import json
import threading
from typing import Any

import libvirt
import libvirt_qemu

from vmbackup.api.conditions import Reason
from vmbackup.core.method import LIMIT_KNOWN_GOOD
from vmbackup.core.steps import LimitSpeed
from vmbackup.errors import Failed, NotYet, VMBackupError
from vmbackup.hypervisor.connection import fresh_connection
from vmbackup.hypervisor.failures import attempt, is_code

GRACE_SECONDS = 3.0
IN_BYTES = libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES
# What libvirt says when a disk's job ended before it could be slowed: 8 and 1 were seen on 9.0.
NO_JOB_CODES = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_OPERATION_INVALID)


def limit_speed(uri: str, uuid: str, step: LimitSpeed, *, may_use_monitor: bool) -> None:
    """Share the rate among the disks that are still copied.

    Raises:
        NotYet: the daemon is away, or does not answer although its release lets limits through.
        Failed: the daemon does not let the limit through, and the monitor may not be used.
    """
    lets_through = _lets_limits_through(uri)
    if may_use_monitor and not lets_through:
        # Trying the other way first would leave the job at full speed for seconds, and a call that hangs for 30.
        _limit_by_monitor(uri, uuid, step)
        return
    call = _Call(uri, uuid, step)
    call.start()
    call.join(GRACE_SECONDS)
    if not call.is_alive():
        if call.error is not None:
            raise call.error
        return
    if lets_through:
        raise NotYet(
            Reason.HYPERVISOR_AWAY,
            f"Disks {', '.join(step.targets)}: libvirt has not answered blockJobSetSpeed in {GRACE_SECONDS:.0f} s. See "
            "whether the daemon hangs; we try again.",
        )
    if not may_use_monitor:
        raise Failed(
            Reason.SPEED_LIMIT_UNSUPPORTED,
            f"Disks {', '.join(step.targets)}: this libvirt does not let a speed limit through while a backup runs "
            f"(blockJobSetSpeed did not return in {GRACE_SECONDS:.0f} s; seen on 11.3). Leave maxBytesPerSecond out, "
            "or let the agent use the QEMU monitor.",
        )
    _limit_by_monitor(uri, uuid, step)


def _lets_limits_through(uri: str) -> bool:
    """Tell whether the daemon is of a release that was seen to do so."""
    with fresh_connection(uri) as connection, attempt(f"Asking {uri} for its version"):
        return bool(connection.getLibVersion() <= LIMIT_KNOWN_GOOD)


class _Call(threading.Thread):
    """blockJobSetSpeed on a connection and in a thread of its own: it may hang for half a minute."""

    def __init__(self, uri: str, uuid: str, step: LimitSpeed) -> None:
        super().__init__(name=f"speed limit {uuid}", daemon=True)
        self.error: VMBackupError | None = None
        self._uri, self._uuid, self._step = uri, uuid, step

    def run(self) -> None:
        try:
            with (
                fresh_connection(self._uri) as connection,
                attempt("Limiting the speed", Reason.SPEED_LIMIT_UNSUPPORTED),
            ):
                domain = connection.lookupByUUIDString(self._uuid)
                running = [target for target in self._step.targets if _is_copied(domain, target)]
                for target in running:
                    _set_speed(domain, target, _share(self._step, len(running)))
        except VMBackupError as error:
            self.error = error


def _is_copied(domain: libvirt.virDomain, target: str) -> bool:
    return bool(domain.blockJobInfo(target).get("type") == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP)


def _set_speed(domain: libvirt.virDomain, target: str, bytes_per_second: int) -> None:
    try:
        domain.blockJobSetSpeed(target, bytes_per_second, IN_BYTES)
    except libvirt.libvirtError as error:
        if not is_code(error, *NO_JOB_CODES) or _is_copied(domain, target):
            raise


def _limit_by_monitor(uri: str, uuid: str, step: LimitSpeed) -> None:
    with (
        fresh_connection(uri) as connection,
        attempt("Limiting the speed by the QEMU monitor", Reason.HYPERVISOR_ERROR),
    ):
        domain = connection.lookupByUUIDString(uuid)
        # Jobs are called backup-<target>-libvirt-<n>-format, or -storage where libvirt needs no format layer.
        wanted = tuple(f"backup-{target}-libvirt-" for target in step.targets)
        jobs = [job["device"] for job in _ask(domain, "query-block-jobs") if str(job["device"]).startswith(wanted)]
        for job in jobs:
            _ask(domain, "block-job-set-speed", device=job, speed=_share(step, len(jobs)))


def _ask(domain: libvirt.virDomain, command: str, **arguments: Any) -> Any:
    """Send one QMP command and return its answer; a job that is gone answers nothing."""
    request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, request, 0))
    error = answer.get("error")
    if error is None:
        return answer["return"]
    if error.get("class") == "DeviceNotActive":
        return []
    raise Failed(Reason.SPEED_LIMIT_UNSUPPORTED, f"QEMU refused {command}: {error.get('desc')}.")


def _share(step: LimitSpeed, running: int) -> int:
    return max(1, step.bytes_per_second // max(1, running))
