"""A guest that QEMU has paused for want of room: one suite on the fake and on real libvirt 7.0, 9.0 and 11.3."""

from contract.asking import everywhere
from contract.site import Site, Wish, wait_until
from vmbackup.core.steps import ResumeGuest


@everywhere
def test_guest_paused_by_an_io_error_is_seen_as_such_and_runs_on_when_there_is_room(site: Site) -> None:
    run = site.new_vm_without_room()
    facts = wait_until(site, run, lambda facts: facts.paused_by_io_error)
    assert (facts.state, facts.alive) == ("paused", True)
    site.make_room(run)
    assert site.hypervisor.observe(run).paused_by_io_error, "QEMU never wakes it by itself"
    site.hypervisor.perform(run, ResumeGuest())
    facts = wait_until(site, run, lambda facts: facts.state == "running")
    assert not facts.paused_by_io_error


@everywhere
def test_guest_paused_by_somebody_is_not_resumed(site: Site) -> None:
    run = site.new_vm(Wish())
    site.pause_guest(run)
    site.hypervisor.perform(run, ResumeGuest())
    facts = site.hypervisor.observe(run)
    assert (facts.state, facts.paused_by_io_error) == ("paused", False)


@everywhere
def test_guest_that_runs_is_left_running(site: Site) -> None:
    run = site.new_vm(Wish())
    site.hypervisor.perform(run, ResumeGuest())
    assert site.hypervisor.observe(run).state == "running"
