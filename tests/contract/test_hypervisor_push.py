"""Push backups: one suite on the fake and on real libvirt 9.0 and 11.3."""

import pytest

from contract.asking import assert_home, disk_of, refusal, where_push_works
from contract.site import Site, Wish, targets_of, wait_until
from vmbackup.api.conditions import Reason
from vmbackup.core.facts import CompletedJob
from vmbackup.core.steps import AbortJob, BeginPush, DrainStatistics, LimitSpeed
from vmbackup.errors import Refused


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
    site.kill_daemon()
    site.let_go(run)
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
