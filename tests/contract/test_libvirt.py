"""What only real libvirt can show: speed limits, events, block devices, full disks, a guest that freezes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from contract.real_site import RealSite
from contract.site import DEADLINE_SECONDS, Wish, targets_of, wait_until
from testbed.boot import boot_files
from testbed.guests import Boot, Disk, Options, domain_xml, wait_until_ready
from testbed.images import disk_image, loop_device
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze, Run
from vmbackup.core.facts import CompletedJob
from vmbackup.core.steps import (
    AbortJob,
    BeginPush,
    FreezeGuest,
    LimitSpeed,
    Pivot,
    StartCommit,
    TakeSnapshot,
    ThawGuest,
)
from vmbackup.errors import Failed, NotYet
from vmbackup.hypervisor.instance import Instances
from vmbackup.hypervisor.libvirtd import KnownDomain, Libvirtd
from vmbackup.units import MIB

RATE = 4 * MIB


def poll(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not reached: {what}"
        time.sleep(0.02)


def speeds(site: RealSite, run: Run) -> dict[str, int]:
    return {job["device"].split("-")[1]: job["speed"] for job in site.qemu(run, "query-block-jobs")}


# -- speed ------------------------------------------------------------------------------------------------------------


def test_speed_limit_is_shared_by_the_running_disks(site: RealSite) -> None:
    run = site.new_vm(Wish("vda", large=True), Wish("vdb", large=True))
    site.begin_held(run)
    site.hypervisor.perform(run, LimitSpeed(("vda", "vdb"), RATE))
    assert speeds(site, run) == {"vda": RATE // 2, "vdb": RATE // 2}


@pytest.mark.parametrize("site", ["libvirt-11.3"], indirect=True)
def test_daemon_that_lets_no_limit_through_is_told_and_can_still_abort(site: RealSite) -> None:
    run = site.new_vm(Wish("vda", large=True))
    site.begin_held(run)
    with pytest.raises(Failed) as raised:
        site.hypervisor.perform(run, LimitSpeed(("vda",), RATE))
    assert raised.value.reason == Reason.SPEED_LIMIT_UNSUPPORTED
    assert site.hypervisor.observe(run).job is not None
    site.hypervisor.perform(run, AbortJob())
    facts = wait_until(site, run, lambda facts: facts.completed is not None)
    assert facts.completed == CompletedJob("backup", success=False, error="Operation canceled")


@pytest.mark.parametrize("site", ["libvirt-11.3"], indirect=True)
def test_monitor_sets_the_limit_where_libvirt_does_not(site: RealSite) -> None:
    run = site.new_vm(Wish("vda", large=True), Wish("vdb", "raw", large=True))
    site.begin_held(run)
    Libvirtd(site.daemon.uri, may_use_monitor=True).perform(run, LimitSpeed(("vda", "vdb"), RATE))
    assert speeds(site, run) == {"vda": RATE // 2, "vdb": RATE // 2}


# -- the daemon -------------------------------------------------------------------------------------------------------


def test_versions_and_vms_with_their_owners(site: RealSite) -> None:
    assert site.hypervisor.host().libvirt_version == 9_000_000
    assert site.hypervisor.host().hypervisor_version >= 7_002_000
    owned = '<v:owner xmlns:v="https://vmbackup.dev/domain/1" namespace="team-b"/>'
    other = '<v:owner xmlns:v="https://example.com/" namespace="team-c"/>'
    connection = libvirt.open(site.daemon.uri)
    for name, metadata in (("owned", owned), ("other", other), ("plain", None)):
        connection.defineXML(domain_xml(name, [], Options(32, metadata=metadata)))
    running = site.new_vm(Wish())
    seen = {vm.domain: vm for vm in Libvirtd(site.daemon.uri).vms()}
    assert seen[running.domain] == KnownDomain(running.domain, running.domain_uuid, True, None)
    assert (seen["owned"].owner, seen["other"].owner, seen["plain"].owner) == ("team-b", None, None)
    assert not seen["owned"].running
    for name in ("owned", "other", "plain"):
        connection.lookupByName(name).undefine()
    connection.close()


def test_qemu_in_a_pid_namespace_that_we_do_not_see_is_told(site: RealSite, tmp_path: Path) -> None:
    run = site.new_vm(Wish())
    blind = Libvirtd(site.daemon.uri)
    blind._instances = Instances(tmp_path)
    with pytest.raises(NotYet, match="hostPID"):
        blind.observe(run)


def test_watch_tells_of_every_vm_and_outlives_the_daemon(site: RealSite) -> None:
    told: list[str] = []
    hypervisor = Libvirtd(site.daemon.uri)
    run = site.new_vm(Wish())
    with hypervisor.watch(told.append):
        poll(lambda: run.domain_uuid in told, "the first look")
        told.clear()
        hypervisor.perform(run, BeginPush(targets_of(run)))
        poll(lambda: run.domain_uuid in told, "the end of the job")
        site.kill_daemon()
        told.clear()
        site.start_daemon()
        poll(lambda: run.domain_uuid in told, "the look after the restart")
        told.clear()
        site.kill_qemu(run)
        poll(lambda: run.domain_uuid in told, "the end of the guest")
    told.clear()
    site.start_guest(run)
    assert told == []


def test_daemon_that_hangs_is_away_after_a_while(site: RealSite) -> None:
    run = site.new_vm(Wish())
    site.hypervisor.observe(run)
    site.signal_daemon("STOP")
    try:
        for _ in range(3):  # on the old connection, on a new one, and at once
            with pytest.raises(NotYet) as raised:
                site.hypervisor.observe(run)
            assert raised.value.reason == Reason.HYPERVISOR_AWAY
    finally:
        site.signal_daemon("CONT")
    assert wait_until(site, run, lambda facts: facts.alive).state == "running"


# -- disks ------------------------------------------------------------------------------------------------------------


def test_block_device_is_pushed_and_snapshotted(site: RealSite) -> None:
    raw = disk_image(site.daemon.images / "loop.raw", "raw", 64 * MIB, 8 * MIB)
    with loop_device(raw) as device:
        run = site.adopt("team-a_block", [Disk(device, "vda", "raw")], str(device))
        disk = site.hypervisor.observe(run).disks[0]
        assert (disk.kind, disk.source, disk.virtual_bytes, disk.allocated_bytes) == (
            "block",
            str(device),
            64 * MIB,
            64 * MIB,
        )
        site.hypervisor.perform(run, BeginPush(targets_of(run)))
        facts = wait_until(site, run, lambda facts: facts.completed is not None)
        assert facts.completed == CompletedJob("backup", success=True)
        overlay = str(site.work / run.overlay_file("vda"))
        site.hypervisor.perform(run, TakeSnapshot((("vda", overlay),)))
        site.hypervisor.perform(run, StartCommit("vda", str(device)))
        wait_until(site, run, lambda facts: facts.disks[0].job is not None and facts.disks[0].job.ready)
        site.hypervisor.perform(run, Pivot("vda"))
        home = site.hypervisor.observe(run).disks[0]
        assert (home.source, home.kind, home.inactive_source) == (str(device), "block", str(device))
        site.tidy()


def test_full_location_fails_the_job_and_not_the_guest(site: RealSite) -> None:
    small = site.location / "small"
    small.mkdir()
    # A mount made after QEMU was started would not be seen by it.
    site.daemon.run("mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "tmpfs", str(small))
    try:
        run = site.new_vm(Wish("vda", large=True))
        site.hypervisor.perform(run, BeginPush((("vda", f"{small}/vda.qcow2"),)))
        facts = wait_until(site, run, lambda facts: facts.completed is not None)
        assert facts.completed == CompletedJob("backup", success=False, error="No space left on device")
        assert (facts.state, facts.job) == ("running", None)
        assert site.daemon.run("ls", str(small)) == ""
    finally:
        site.tidy()
        site.daemon.run("umount", str(small))
        small.rmdir()


def test_location_mounted_after_the_guest_started_is_told_in_words(site: RealSite) -> None:
    run = site.new_vm(Wish())
    partial = site.location / run.partial_path
    site.daemon.run("mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", str(partial))
    try:
        with pytest.raises(Failed, match="mounted after the VM or its pod was started") as raised:
            site.hypervisor.perform(run, BeginPush(targets_of(run)))
        assert raised.value.reason == Reason.BACKUP_JOB_FAILED
        assert site.hypervisor.observe(run).job is None
        assert site.daemon.run("ls", str(partial)) == ""
    finally:
        site.daemon.run("umount", str(partial))


def test_location_that_the_qemu_host_does_not_see_is_told(site: RealSite) -> None:
    run = site.new_vm(Wish())
    step = BeginPush((("vda", f"{site.location}/nowhere/vda.qcow2"),))
    with pytest.raises(Failed, match="No such file") as raised:
        site.hypervisor.perform(run, step)
    assert raised.value.reason == Reason.BACKUP_JOB_FAILED
    assert "vda" in raised.value.message
    assert site.hypervisor.observe(run).job is None


# -- a guest with an agent --------------------------------------------------------------------------------------------


@pytest.fixture
def talking(site: RealSite) -> Run:
    """A VM whose guest agent is connected."""
    kernel, initramfs = boot_files(site.work)
    log = site.work / "console.log"
    disk = disk_image(site.daemon.images / "guest.qcow2", "qcow2", 64 * MIB)
    options = Options(256, agent=True, boot=Boot(kernel, initramfs, log, "testbed.ext4=vda"))
    run = site.adopt("team-a_talking", [Disk(disk, "vda")], str(disk), options)
    wait_until_ready(log)
    wait_until(site, run, lambda facts: facts.guest_agent)
    return run


def frozen(site: RealSite, run: Run) -> bool:
    """Ask the guest itself."""
    command = ["virsh", "-c", site.daemon.uri, "qemu-agent-command", run.domain, '{"execute":"guest-fsfreeze-status"}']
    return '"frozen"' in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_guest_is_frozen_and_thawed_and_its_time_is_told(site: RealSite, talking: Run) -> None:
    site.hypervisor.perform(talking, FreezeGuest(20.0))
    assert frozen(site, talking)
    milliseconds = site.hypervisor.perform(talking, ThawGuest())
    assert not frozen(site, talking)
    assert milliseconds is not None
    assert 0 < milliseconds < 20_000
    assert site.hypervisor.perform(talking, ThawGuest()) == milliseconds


def test_watchdog_thaws_a_guest_that_everybody_forgot(site: RealSite, talking: Run) -> None:
    site.hypervisor.perform(talking, FreezeGuest(2.0))
    assert frozen(site, talking)
    poll(lambda: not frozen(site, talking), "the thaw by the watchdog")
    milliseconds = site.hypervisor.perform(talking, ThawGuest())
    assert milliseconds is not None
    assert milliseconds >= 2000


def test_agent_that_was_restarted_thaws_what_it_had_frozen(site: RealSite, talking: Run) -> None:
    dead = Libvirtd(site.daemon.uri)
    dead.perform(talking, FreezeGuest(60.0))
    risen = Libvirtd(site.daemon.uri)
    assert risen.perform(talking.model_copy(update={"freeze": Freeze.FROZEN}), ThawGuest()) is None
    assert not frozen(site, talking)
    dead.perform(talking, ThawGuest())


def test_guest_that_stops_answering_is_given_up_and_thawed_when_it_wakes(site: RealSite, talking: Run) -> None:
    pid = site.daemon.qemu_pid(talking.domain_uuid)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Failed) as raised:
            site.hypervisor.perform(talking, FreezeGuest(2.0))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert raised.value.reason == Reason.FREEZE_FAILED
    site.hypervisor.perform(talking, ThawGuest())
    poll(lambda: not frozen(site, talking), "the guest is not frozen")


def test_push_of_a_frozen_guest(site: RealSite, talking: Run) -> None:
    site.hypervisor.perform(talking, FreezeGuest(20.0))
    site.hypervisor.perform(talking, BeginPush(targets_of(talking)))
    assert site.hypervisor.perform(talking, ThawGuest()) is not None
    facts = wait_until(site, talking, lambda facts: facts.completed is not None)
    assert facts.completed == CompletedJob("backup", success=True)
    copy = dict(targets_of(talking))["vda"]
    raw = site.work / "checked.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", copy, str(raw)], check=True)
    first_sector = int.from_bytes(raw.read_bytes()[454:458], "little")  # of partition 1, in the master boot record
    file_system = f"{raw}?offset={first_sector * 512}"
    checked = subprocess.run(["e2fsck", "-fn", file_system], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
