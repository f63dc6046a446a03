"""What a hypervisor does for a backup: one suite on the fake and on real libvirt, so that the fake tells the truth.

Real daemons: 7.0 (snapshots only), 9.0 and 11.3.
"""

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from contract.hypervisor_sites import (
    DEADLINE_SECONDS,
    FakeSite,
    RealSite,
    Site,
    Wish,
    overlays_of,
    targets_of,
    wait_until,
)
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze, Run
from vmbackup.core.facts import CompletedJob, DiskFacts, DomainFacts
from vmbackup.core.steps import (
    AbortJob,
    BeginPush,
    DrainStatistics,
    FreezeGuest,
    LimitSpeed,
    Pivot,
    StartCommit,
    TakeSnapshot,
    ThawGuest,
)
from vmbackup.errors import Failed, NotYet, Refused, VMBackupError

SITES = ("fake", "libvirt-7.0", "libvirt-9.0", "libvirt-11.3")
PUSHING = ("fake", "libvirt-9.0", "libvirt-11.3")


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Site]]:
    """Real daemons are started at first use and live as long as the suite."""
    made: dict[str, Site] = {}
    yield made
    for site in made.values():
        if isinstance(site, RealSite):
            site.close()


@pytest.fixture
def site(request: pytest.FixtureRequest, places: dict[str, Site]) -> Iterator[Site]:
    name: str = request.param
    if name not in places:
        places[name] = FakeSite() if name == "fake" else RealSite(name.removeprefix("libvirt-"))
    place = places[name]
    yield place
    if isinstance(place, RealSite):
        place.tidy()


everywhere = pytest.mark.parametrize("site", SITES, indirect=True)
where_push_works = pytest.mark.parametrize("site", PUSHING, indirect=True)


def disk_of(site: Site, run: Run, target: str = "vda") -> DiskFacts:
    disk = site.hypervisor.observe(run).disk(target)
    assert disk is not None
    return disk


def refusal(site: Site, run: Run, step: object) -> VMBackupError:
    with pytest.raises((Failed, Refused)) as raised:
        site.hypervisor.perform(run, step)  # type: ignore[arg-type]
    return raised.value


def put_on_overlay(site: Site, run: Run) -> None:
    site.hypervisor.perform(run, TakeSnapshot(overlays_of(run)))


def take_home(site: Site, run: Run) -> None:
    for disk in run.disks:
        site.hypervisor.perform(run, StartCommit(disk.target, disk.source))
        wait_until(site, run, partial(_is_ready, disk.target))
        site.hypervisor.perform(run, Pivot(disk.target))


def _is_ready(target: str, facts: DomainFacts) -> bool:
    return _ready(facts.disk(target))


def _ready(disk: DiskFacts | None) -> bool:
    return disk is not None and disk.job is not None and disk.job.ready


def assert_home(site: Site, run: Run) -> None:
    facts = site.hypervisor.observe(run)
    for disk in run.disks:
        seen = facts.disk(disk.target)
        assert seen is not None
        assert (seen.source, seen.inactive_source, seen.job) == (disk.source, disk.source, None)
        assert tuple(image.path for image in seen.backing) == disk.backing


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


# -- push -------------------------------------------------------------------------------------------------------------


@where_push_works
def test_push_copies_all_disks_in_one_job(site: Site) -> None:
    run = site.new_vm(Wish("vda", golden=True), Wish("vdb", "raw"), Wish("sda", empty_cdrom=True))
    golden = site.fingerprint(run.disk("vda").backing[0])
    site.hypervisor.perform(run, BeginPush(targets_of(run)))
    facts = wait_until(site, run, lambda facts: facts.job is None)
    assert facts.completed == CompletedJob("backup", success=True)
    assert_home(site, run)
    for target, path in targets_of(run):
        assert site.same_content(run.disk(target).source, path)
    assert site.fingerprint(run.disk("vda").backing[0]) == golden


@where_push_works
def test_running_push_shows_its_targets_and_progress(site: Site) -> None:
    run = site.new_vm(Wish("vda", large=True))
    site.begin_held(run)
    job = site.hypervisor.observe(run).job
    assert job is not None
    assert (job.operation, dict(job.targets)) == ("backup", dict(targets_of(run)))
    assert 0 <= job.bytes_done < job.bytes_total
    assert site.hypervisor.observe(run).completed is None
    running = disk_of(site, run).job
    assert running is not None
    assert running.kind == "backup"
    site.let_go(run)
    wait_until(site, run, lambda facts: facts.job is None and facts.completed is not None)


@where_push_works
def test_aborted_push_leaves_no_target(site: Site) -> None:
    run = site.new_vm(Wish("vda", large=True), Wish("vdb"))
    site.begin_held(run)
    site.hypervisor.perform(run, AbortJob())
    facts = wait_until(site, run, lambda facts: facts.job is None and facts.completed is not None)
    assert facts.completed == CompletedJob("backup", success=False, error="Operation canceled")
    assert not any(site.exists(path) for _, path in targets_of(run))
    site.hypervisor.perform(run, AbortJob())


@where_push_works
def test_second_begin_of_the_same_push_is_refused_and_harmless(site: Site) -> None:
    run = site.new_vm(Wish("vda", large=True))
    site.begin_held(run)
    assert isinstance(refusal(site, run, BeginPush(targets_of(run))), Refused)
    assert site.hypervisor.observe(run).job is not None
    assert all(site.exists(path) for _, path in targets_of(run))


@where_push_works
def test_completed_statistics_are_kept_until_drained(site: Site) -> None:
    run = site.new_vm(Wish())
    site.hypervisor.perform(run, BeginPush(targets_of(run)))
    wait_until(site, run, lambda facts: facts.completed is not None)
    assert site.hypervisor.observe(run).completed is not None
    site.hypervisor.perform(run, DrainStatistics())
    assert site.hypervisor.observe(run).completed is None
    site.hypervisor.perform(run, DrainStatistics())


@where_push_works
def test_push_never_writes_over_a_file(site: Site) -> None:
    run = site.new_vm(Wish("vda"), Wish("vdb"))
    taken = dict(targets_of(run))["vdb"]
    site.put_file(taken)
    before = site.fingerprint(taken)
    assert refusal(site, run, BeginPush(targets_of(run))).reason == Reason.BACKUP_JOB_FAILED
    assert site.fingerprint(taken) == before
    assert site.hypervisor.observe(run).job is None


@where_push_works
def test_push_of_a_disk_that_is_gone_is_refused(site: Site) -> None:
    run = site.new_vm(Wish())
    step = BeginPush((*targets_of(run), ("vdz", f"{run.location_path}/{run.partial_path}/vdz.qcow2")))
    assert refusal(site, run, step).reason == Reason.DISK_NOT_FOUND
    assert not any(site.exists(path) for _, path in step.targets)


@where_push_works
def test_push_takes_a_shareable_disk(site: Site) -> None:
    run = site.new_vm(Wish("vda"), Wish("vdb", "raw", shareable=True))
    assert disk_of(site, run, "vdb").shareable
    site.hypervisor.perform(run, BeginPush(targets_of(run)))
    facts = wait_until(site, run, lambda facts: facts.completed is not None)
    assert facts.completed == CompletedJob("backup", success=True)


@where_push_works
def test_qemu_killed_in_mid_push(site: Site) -> None:
    run = site.new_vm(Wish("vda", large=True))
    site.begin_held(run)
    site.kill_qemu(run)
    facts = wait_until(site, run, lambda facts: facts.completed is not None)
    assert (facts.state, facts.job) == ("off", None)
    assert facts.completed == CompletedJob("backup", success=False, error="")
    assert not any(site.exists(path) for _, path in targets_of(run))


@where_push_works
def test_daemon_killed_in_mid_push_finds_the_job_again(site: Site) -> None:
    run = site.new_vm(Wish("vda", large=True))
    site.begin_held(run)
    site.kill_daemon()
    site.start_daemon()
    job = site.hypervisor.observe(run).job  # the first look after the restart must not miss it
    assert job is not None
    assert dict(job.targets) == dict(targets_of(run))
    site.hypervisor.perform(run, AbortJob())
    wait_until(site, run, lambda facts: facts.job is None)
    assert not any(site.exists(path) for _, path in targets_of(run))


@where_push_works
def test_push_that_ends_while_the_daemon_is_dead(site: Site) -> None:
    run = site.new_vm(Wish("vda", large=True))
    site.begin_held(run)
    site.let_go(run)
    site.kill_daemon()
    site.end_push_unseen(run)
    site.start_daemon()
    facts = wait_until(site, run, lambda facts: facts.job is None)
    assert facts.completed == CompletedJob("backup", success=True)
    assert site.same_content(run.disk("vda").source, dict(targets_of(run))["vda"])
    site.kill_daemon()
    site.start_daemon()
    assert site.hypervisor.observe(run).completed is None


@pytest.mark.parametrize("site", ["libvirt-7.0"], indirect=True)
def test_push_on_an_old_daemon_is_refused_before_anything_is_touched(site: Site) -> None:
    run = site.new_vm(Wish())
    refused = refusal(site, run, BeginPush(targets_of(run)))
    assert (type(refused), refused.reason) == (Refused, Reason.METHOD_UNSUPPORTED)
    assert "7.0.0" in refused.message
    assert not any(site.exists(path) for _, path in targets_of(run))


@where_push_works
def test_speed_limit_without_a_job_is_no_fault(site: Site) -> None:
    run = site.new_vm(Wish())
    site.hypervisor.perform(run, LimitSpeed(("vda",), 1 << 20))


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


# -- snapshot, commit, pivot ------------------------------------------------------------------------------------------


@everywhere
def test_snapshot_puts_all_disks_on_overlays_and_back(site: Site) -> None:
    run = site.new_vm(Wish("vda", golden=True), Wish("vdb", "raw"), Wish("sda", empty_cdrom=True))
    golden = site.fingerprint(run.disk("vda").backing[0])
    put_on_overlay(site, run)
    facts = site.hypervisor.observe(run)
    for disk in run.disks:
        seen = facts.disk(disk.target)
        assert seen is not None
        assert (seen.source, seen.format, seen.inactive_source) == (disk.overlay, "qcow2", disk.overlay)
        assert tuple(image.path for image in seen.backing) == (disk.source, *disk.backing)
    assert facts.snapshots == ()
    site.guest_writes(run, "vda")
    take_home(site, run)
    assert_home(site, run)
    assert site.fingerprint(run.disk("vda").backing[0]) == golden
    assert site.exists(run.disk("vda").overlay), "only we remove the overlay, once all is well"


@everywhere
def test_snapshot_that_fails_on_one_disk_changes_none(site: Site) -> None:
    run = site.new_vm(Wish("vda"), Wish("vdb"))
    site.put_file(run.disk("vdb").overlay)
    assert refusal(site, run, TakeSnapshot(overlays_of(run))).reason == Reason.SNAPSHOT_FAILED
    assert_home(site, run)
    assert not site.exists(run.disk("vda").overlay)


@everywhere
def test_shareable_disk_stops_a_snapshot_that_names_it(site: Site) -> None:
    run = site.new_vm(Wish("vda"), Wish("vdb", "raw", shareable=True))
    assert refusal(site, run, TakeSnapshot(overlays_of(run))).reason == Reason.SNAPSHOT_FAILED
    assert_home(site, run)
    site.hypervisor.perform(run, TakeSnapshot((("vda", run.disk("vda").overlay),)))
    assert disk_of(site, run, "vda").source == run.disk("vda").overlay
    assert disk_of(site, run, "vdb").source == run.disk("vdb").source


@everywhere
def test_pivot_before_ready_fails_and_is_harmless(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    site.guest_writes(run, "vda")
    site.begin_held(run, StartCommit("vda", run.disk("vda").source))
    error = refusal(site, run, Pivot("vda"))
    assert isinstance(error, Failed)
    assert error.heals
    seen = disk_of(site, run)
    assert seen.source == run.disk("vda").overlay
    assert seen.job is not None
    assert (seen.job.kind, seen.job.mirror_path) == ("active-commit", run.disk("vda").source)
    site.let_go(run)
    wait_until(site, run, lambda facts: _ready(facts.disk("vda")))
    site.hypervisor.perform(run, Pivot("vda"))
    assert_home(site, run)


@everywhere
def test_second_commit_of_a_disk_is_refused_and_harmless(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    site.hypervisor.perform(run, StartCommit("vda", run.disk("vda").source))
    refusal(site, run, StartCommit("vda", run.disk("vda").source))
    wait_until(site, run, lambda facts: _ready(facts.disk("vda")))
    site.hypervisor.perform(run, Pivot("vda"))
    assert_home(site, run)


@everywhere
def test_golden_image_is_never_a_base_of_ours(site: Site) -> None:
    run = site.new_vm(Wish("vda", golden=True))
    golden = run.disk("vda").backing[0]
    before = site.fingerprint(golden)
    assert refusal(site, run, StartCommit("vda", golden)).reason == Reason.COMMIT_FAILED
    put_on_overlay(site, run)
    assert refusal(site, run, StartCommit("vda", golden)).reason == Reason.COMMIT_FAILED
    assert disk_of(site, run).job is None
    assert site.fingerprint(golden) == before


@everywhere
def test_pivot_without_a_commit_is_refused(site: Site) -> None:
    run = site.new_vm(Wish())
    refusal(site, run, Pivot("vda"))
    put_on_overlay(site, run)
    refusal(site, run, Pivot("vda"))
    assert disk_of(site, run).source == run.disk("vda").overlay


@everywhere
def test_qemu_killed_on_the_overlay_starts_there_again(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    instance = site.hypervisor.observe(run).instance
    site.kill_qemu(run)
    facts = site.hypervisor.observe(run)
    assert facts.state == "off"
    assert disk_of(site, run).source == run.disk("vda").overlay
    assert disk_of(site, run).backing[0].path == run.disk("vda").source
    site.start_guest(run)
    facts = site.hypervisor.observe(run)
    assert facts.instance != instance
    assert disk_of(site, run).source == run.disk("vda").overlay
    take_home(site, run)
    assert_home(site, run)


@everywhere
def test_qemu_killed_with_the_commit_ready(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    site.hypervisor.perform(run, StartCommit("vda", run.disk("vda").source))
    wait_until(site, run, lambda facts: _ready(facts.disk("vda")))
    site.kill_qemu(run)
    site.start_guest(run)
    seen = disk_of(site, run)
    assert (seen.source, seen.job) == (run.disk("vda").overlay, None)
    take_home(site, run)
    assert_home(site, run)


@everywhere
def test_daemon_killed_on_the_overlay_and_with_the_commit_ready(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    site.kill_daemon()
    site.start_daemon()
    assert disk_of(site, run).source == run.disk("vda").overlay
    site.hypervisor.perform(run, StartCommit("vda", run.disk("vda").source))
    wait_until(site, run, lambda facts: _ready(facts.disk("vda")))
    site.kill_daemon()
    site.start_daemon()
    assert _ready(disk_of(site, run))
    site.hypervisor.perform(run, Pivot("vda"))
    assert_home(site, run)


@everywhere
def test_transient_vm_is_absent_when_its_qemu_dies(site: Site) -> None:
    run = site.new_vm(Wish(), persistent=False)
    facts = site.hypervisor.observe(run)
    assert (facts.persistent, disk_of(site, run).inactive_source) == (False, None)
    put_on_overlay(site, run)
    site.kill_qemu(run)
    assert site.hypervisor.observe(run).state == "absent"
    assert site.exists(run.disk("vda").overlay)


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
