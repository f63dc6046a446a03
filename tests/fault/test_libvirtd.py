"""libvirtd dies, stays away, or is started again more than once."""

import time

from fault.cell import LOST, Cell
from fault.machine import NAME
from fault.rows import PUSH, SNAPSHOT, column
from testbed.lost import make_status_unreadable

AWAY_SECONDS = {"libvirtd-away-10s": 10, "libvirtd-away-60s": 60}
JOB_SECONDS, QUIET_SECONDS, QUIET_SECONDS_MAX = 4, 3.0, 60.0
LONG = ("Copying", "Committing", "Pivoting")


@column("libvirtd-sigkill", push=PUSH, snapshot=SNAPSHOT)
def test_daemon_is_killed_and_started_again(cell: Cell) -> None:
    cell.catch()
    cell.stage.kill_daemon()
    cell.stage.agent.go_on()
    time.sleep(1)  # the agent meets the dead daemon
    cell.stage.start_daemon()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("libvirtd-away-10s", push=("Starting", "Copying"), snapshot=("Snapshotting", *LONG))
@column("libvirtd-away-60s", push=PUSH, snapshot=SNAPSHOT)
def test_daemon_stays_away(cell: Cell) -> None:
    cell.catch()
    cell.stage.kill_daemon()
    cell.stage.agent.go_on()
    time.sleep(AWAY_SECONDS[cell.fault])
    cell.stage.start_daemon()
    cell.fault_is_over()
    cell.until_home()
    # A set is checked and published without the daemon; it may be done before anybody has missed it.
    cell.ends(says="" if cell.phase in ("Verifying", "Publishing") else "HypervisorAway")


@column("libvirtd-twice", push=("Copying",), snapshot=LONG)
def test_daemon_is_started_twice_and_knows_nothing_of_the_job(cell: Cell) -> None:
    """The job ends while the daemon is down; after the second start nobody has its result."""
    cell.catch()
    cell.let_job_end_soon()
    cell.stage.kill_daemon()
    until_quiet(cell) if cell.method == "Push" else time.sleep(JOB_SECONDS)
    cell.stage.start_daemon()
    time.sleep(1)  # it learns that the job has ended
    cell.stage.kill_daemon()
    time.sleep(JOB_SECONDS)
    cell.stage.start_daemon()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    if cell.method == "Push":
        cell.ends(says="OutcomeUnknown|kept no result", attempts=2)
    else:
        cell.ends()


@column("libvirtd-loses-vm", snapshot=LONG)
def test_daemon_has_lost_the_vm_and_a_human_brings_it_back_by_the_docs(cell: Cell) -> None:
    cell.catch()
    cell.stage.kill_daemon()
    make_status_unreadable(cell.stage.host, NAME)
    cell.stage.start_daemon()
    assert cell.machine.is_lost()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says=LOST)


def until_quiet(cell: Cell) -> None:
    """Return when QEMU has not written to the set for some seconds: its job has ended, whoever may know of it."""
    deadline = time.monotonic() + QUIET_SECONDS_MAX
    last, since = 0, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        assert time.monotonic() < deadline, "the job does not end"
        written = max(path.stat().st_mtime_ns for path in cell.unfinished_images())
        if written != last:
            last, since = written, time.monotonic()
        time.sleep(0.1)
