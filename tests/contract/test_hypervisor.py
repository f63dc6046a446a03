"""What a hypervisor does for a backup: one suite on the fake and on real libvirt, so that the fake tells the truth.

Real daemons: 7.0 (snapshots only), 9.0 and 11.3.
"""

import threading

import pytest

from contract.asking import disk_of, everywhere, refusal, where_push_works
from contract.site import DEADLINE_SECONDS, Site, Wish, overlays_of, targets_of
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze
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
from vmbackup.errors import NotYet

# -- looking ----------------------------------------------------------------------------------------------------------


@everywhere
def test_running_vm_is_seen_with_its_disks(site: Site) -> None:
    run = site.new_vm(Wish("vda", golden=True), Wish("vdb", "raw"), Wish("sda", empty_cdrom=True))
    facts = site.hypervisor.observe(run)
    assert (facts.name, facts.uuid, facts.state, facts.persistent) == (run.domain, run.domain_uuid, "running", True)
    assert facts.instance
    assert (facts.job, facts.completed, facts.snapshots, facts.guest_agent) == (None, None, (), False)
    vda, vdb, sda = facts.disks
    assert (vda.target, vda.kind, vda.format, vda.source) == ("vda", "file", "qcow2", run.disk("vda").source)
    assert tuple((image.path, image.format) for image in vda.backing) == ((run.disk("vda").backing[0], "qcow2"),)
    assert (vdb.format, vdb.backing, vdb.inactive_source) == ("raw", (), run.disk("vdb").source)
    assert vdb.virtual_bytes == 64 << 20
    assert 0 < vda.allocated_bytes < vda.virtual_bytes
    assert 0 < vdb.allocated_bytes < vdb.virtual_bytes
    assert (sda.device, sda.kind, sda.source, sda.virtual_bytes) == ("cdrom", "", "", 0)
    assert site.hypervisor.find(run.domain) == facts


@everywhere
def test_vm_that_libvirt_does_not_know_is_absent(site: Site) -> None:
    run = site.new_vm(Wish()).model_copy(update={"domain_uuid": "00000000-0000-4000-8000-ffffffffffff"})
    assert site.hypervisor.observe(run).state == "absent"
    assert site.hypervisor.find("team-a_nobody").state == "absent"
    assert refusal(site, run, BeginPush(targets_of(run))).reason in (Reason.VM_NOT_FOUND, Reason.METHOD_UNSUPPORTED)
    assert refusal(site, run, TakeSnapshot(overlays_of(run))).reason == Reason.VM_NOT_FOUND
    site.hypervisor.perform(run, AbortJob())
    assert site.hypervisor.perform(run, ThawGuest()) is None


@everywhere
def test_vm_that_is_off_refuses_every_act(site: Site) -> None:
    run = site.new_vm(Wish())
    site.kill_qemu(run)
    facts = site.hypervisor.observe(run)
    assert (facts.state, facts.instance, facts.job) == ("off", "", None)
    assert disk_of(site, run).source == run.disk("vda").source
    assert refusal(site, run, TakeSnapshot(overlays_of(run))).reason == Reason.VM_NOT_RUNNING
    assert not site.exists(run.disk("vda").overlay)
    assert refusal(site, run, FreezeGuest(1.0)).reason == Reason.VM_NOT_RUNNING
    refusal(site, run, StartCommit("vda", run.disk("vda").source))
    site.hypervisor.perform(run, AbortJob())
    assert site.hypervisor.perform(run, ThawGuest()) is None


@everywhere
def test_paused_vm_is_seen_as_paused(site: Site) -> None:
    run = site.new_vm(Wish())
    site.pause_guest(run)
    facts = site.hypervisor.observe(run)
    assert (facts.state, facts.alive, facts.paused_by_io_error) == ("paused", True, False)


@everywhere
def test_instance_changes_with_the_guest_and_not_with_the_daemon(site: Site) -> None:
    run = site.new_vm(Wish())
    first = site.hypervisor.observe(run).instance
    site.kill_daemon()
    site.start_daemon()
    assert site.hypervisor.observe(run).instance == first
    site.kill_qemu(run)
    site.start_guest(run)
    assert site.hypervisor.observe(run).instance not in ("", first)


@everywhere
def test_daemon_away_is_not_yet_and_heals_without_us(site: Site) -> None:
    run = site.new_vm(Wish())
    site.hypervisor.observe(run)
    site.kill_daemon()
    for _ in range(2):
        for look in (lambda: site.hypervisor.observe(run), site.hypervisor.host, lambda: site.hypervisor.find("x")):
            with pytest.raises(NotYet) as raised:
                look()
            assert raised.value.reason == Reason.HYPERVISOR_AWAY
    for step in (TakeSnapshot(overlays_of(run)), AbortJob(), ThawGuest(), FreezeGuest(1.0), LimitSpeed(("vda",), 1)):
        with pytest.raises(NotYet):
            site.hypervisor.perform(run, step)
    site.start_daemon()
    assert site.hypervisor.observe(run).state == "running"


@everywhere
def test_domain_xml_can_define_the_vm_again(site: Site) -> None:
    run = site.new_vm(Wish())
    xml = site.hypervisor.domain_xml(run)
    assert f"<uuid>{run.domain_uuid}</uuid>" in xml
    assert f"<name>{run.domain}</name>" in xml


# -- strangers --------------------------------------------------------------------------------------------------------


@where_push_works
def test_foreign_push_is_seen_and_left_alone(site: Site) -> None:
    run = site.new_vm(Wish("vda", large=True))
    site.begin_foreign_push(run)
    job = site.hypervisor.observe(run).job
    assert job is not None
    assert job.operation == "backup"
    assert dict(job.targets) != dict(targets_of(run))
    for step in (BeginPush(targets_of(run)), TakeSnapshot(overlays_of(run))):
        with pytest.raises(NotYet) as raised:
            site.hypervisor.perform(run, step)
        assert raised.value.reason == Reason.FOREIGN_JOB
    site.hypervisor.perform(run, AbortJob())
    assert site.hypervisor.observe(run).job is not None


@everywhere
def test_foreign_block_copy_is_seen_and_left_alone(site: Site) -> None:
    run = site.new_vm(Wish("vda"), Wish("vdb"))
    site.begin_foreign_copy(run, "vda")
    copy = disk_of(site, run).job
    assert copy is not None
    assert copy.kind == "copy"
    assert copy.mirror_path
    refusal(site, run, TakeSnapshot(overlays_of(run)))
    refusal(site, run, BeginPush(targets_of(run)))
    refusal(site, run, Pivot("vda"))
    refusal(site, run, StartCommit("vda", run.disk("vda").source))
    assert disk_of(site, run).job is not None
    assert disk_of(site, run, "vdb").source == run.disk("vdb").source
    assert not site.exists(run.disk("vdb").overlay)


# -- freezing ---------------------------------------------------------------------------------------------------------


@everywhere
def test_freeze_without_an_agent_fails_and_leaves_nothing_frozen(site: Site) -> None:
    run = site.new_vm(Wish()).model_copy(update={"freeze": Freeze.INTENDED})
    assert refusal(site, run, FreezeGuest(2.0)).reason == Reason.GUEST_AGENT_MISSING
    assert site.hypervisor.perform(run, ThawGuest()) is None
    for watchdog in [thread for thread in threading.enumerate() if thread.name == f"thaw {run.domain}"]:
        watchdog.join(DEADLINE_SECONDS)
        assert not watchdog.is_alive()


@everywhere
def test_thaw_of_a_guest_that_was_never_frozen_is_no_fault(site: Site) -> None:
    run = site.new_vm(Wish())
    assert site.hypervisor.perform(run, ThawGuest()) is None
