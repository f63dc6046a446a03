"""Snapshot, commit, pivot: one suite on the fake and on real libvirt 7.0, 9.0 and 11.3."""

from contract.asking import assert_home, disk_of, everywhere, put_on_overlay, ready, refusal, take_home
from contract.site import Site, Wish, overlays_of, wait_until
from vmbackup.api.conditions import Reason
from vmbackup.core.steps import Pivot, StartCommit, TakeSnapshot
from vmbackup.errors import Failed


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
    wait_until(site, run, lambda facts: ready(facts.disk("vda")))
    site.hypervisor.perform(run, Pivot("vda"))
    assert_home(site, run)


@everywhere
def test_second_commit_of_a_disk_is_refused_and_harmless(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    site.hypervisor.perform(run, StartCommit("vda", run.disk("vda").source))
    refusal(site, run, StartCommit("vda", run.disk("vda").source))
    wait_until(site, run, lambda facts: ready(facts.disk("vda")))
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
def test_qemu_killed_with_the_commitready(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    site.hypervisor.perform(run, StartCommit("vda", run.disk("vda").source))
    wait_until(site, run, lambda facts: ready(facts.disk("vda")))
    site.kill_qemu(run)
    site.start_guest(run)
    seen = disk_of(site, run)
    assert (seen.source, seen.job) == (run.disk("vda").overlay, None)
    take_home(site, run)
    assert_home(site, run)


@everywhere
def test_daemon_killed_on_the_overlay_and_with_the_commitready(site: Site) -> None:
    run = site.new_vm(Wish())
    put_on_overlay(site, run)
    site.kill_daemon()
    site.start_daemon()
    assert disk_of(site, run).source == run.disk("vda").overlay
    site.hypervisor.perform(run, StartCommit("vda", run.disk("vda").source))
    wait_until(site, run, lambda facts: ready(facts.disk("vda")))
    site.kill_daemon()
    site.start_daemon()
    assert ready(disk_of(site, run))
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
