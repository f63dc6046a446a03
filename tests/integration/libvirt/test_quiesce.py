"""The guest's file systems are frozen for the moment that the set shows, and never any longer."""

import libvirt_qemu

from integration.libvirt.booted import assert_guest_writes, assert_one_moment, booted
from integration.libvirt.machines import VM, wait_until
from integration.libvirt.releases import everywhere, methods
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.beginning import FREEZE_LIMIT_SECONDS


def with_agent(rig: Rig) -> VM:
    vm = booted(rig, agent=True)
    target = "devices/channel/target[@name='org.qemu.guest_agent.0'][@state='connected']"
    wait_until(lambda: vm.xml().find(target) is not None, "the guest agent is connected")
    return vm


def fsfreeze_status(vm: VM) -> str:
    """Ask the agent itself."""
    with vm.domain() as domain:
        return str(libvirt_qemu.qemuAgentCommand(domain, '{"execute": "guest-fsfreeze-status"}', 10, 0))


def assert_not_frozen(vm: VM) -> None:
    assert "thawed" in fsfreeze_status(vm)
    assert_guest_writes(vm)


@everywhere
def test_guest_is_frozen_for_the_moment_and_thawed(rig: Rig, method: str) -> None:
    vm = with_agent(rig)
    before = vm.portrait()
    run = rig.run(vm, method=method, quiesce="Required" if method == "Push" else "IfAvailable")
    published = assert_published(rig, run)
    assert run.quiesced is not None
    assert (run.quiesced.done, run.quiesced.reason) == (True, "Frozen")
    assert run.frozen_milliseconds is not None
    assert 0 < run.frozen_milliseconds < FREEZE_LIMIT_SECONDS * 1000
    assert '"quiesced": true' in (published / "manifest.json").read_text()
    assert_one_moment(published)
    assert vm.portrait() == before
    assert_not_frozen(vm)


@methods
def test_nobody_asks_the_agent_when_that_is_not_wanted(rig: Rig, method: str) -> None:
    vm = with_agent(rig)
    run = rig.run(vm, method=method, quiesce="Never")
    assert_published(rig, run)
    assert run.quiesced is not None
    assert (run.quiesced.done, run.quiesced.reason) == (False, "NotRequested")
    assert run.frozen_at is None
    assert run.frozen_milliseconds is None


@methods
def test_quiesce_is_required_and_no_agent_is_there(rig: Rig, method: str) -> None:
    vm = rig.vm()
    before = vm.portrait()
    run = rig.run(vm, method=method, quiesce="Required")
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason == "QuiesceFailed"
    assert "Start qemu-guest-agent" in run.failure.message
    assert not run.began
    assert_nothing_published(rig)
    assert vm.portrait() == before


@methods
def test_quiesce_is_tried_and_no_agent_is_there(rig: Rig, method: str) -> None:
    vm = rig.vm()
    run = rig.run(vm, method=method, quiesce="IfAvailable")
    assert_published(rig, run)
    assert run.quiesced is not None
    assert (run.quiesced.done, run.quiesced.reason) == (False, "GuestAgentMissing")
    assert run.frozen_milliseconds is None


@methods
def test_agent_process_dies_while_the_guest_is_frozen(rig: Rig, method: str) -> None:
    vm = with_agent(rig)
    before = vm.portrait()
    rig.plan(vm, method=method, quiesce="Required")
    rig.process(death="after FreezeGuest").wait(60)
    run = rig.finish()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert_published(rig, run)
    assert vm.portrait() == before
    assert_not_frozen(vm)


def test_point_in_time_comes_later_than_a_guest_may_be_frozen(rig: Rig) -> None:
    """The watchdog has thawed the guest: a set would claim to be quiesced, and would not be."""
    vm = with_agent(rig)
    before = vm.portrait()

    def dawdle(moment: str, _run: Run) -> None:
        if moment == "before BeginPush":
            wait_until(lambda: "thawed" in fsfreeze_status(vm), "the watchdog has thawed the guest")

    run = rig.backup(vm, method="Push", quiesce="Required", hook=dawdle).end()
    assert run.failure is not None
    assert (run.outcome, run.failure.reason) == (Outcome.FAILED, "QuiesceFailed")
    assert run.frozen_milliseconds is not None
    assert run.frozen_milliseconds >= FREEZE_LIMIT_SECONDS * 1000
    assert_nothing_published(rig)
    assert vm.portrait() == before
    assert_guest_writes(vm)
