"""Walks that take days, lose their clock, their journal or their witnesses, and still end at home or in words."""

import pytest

from fakes.disks import FakeImage
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core import steps
from vmbackup.core.facts import Wishes
from vmbackup.errors import Failed, NotYet
from walk.witness import Witness
from walk.world import World, now_in, status

FULL = Failed(Reason.STORE_ERROR, "no space left for the journal", heals=True)
METHODS = (Method.PUSH, Method.SNAPSHOT)


@pytest.mark.parametrize("step", [steps.StartCommit, steps.Pivot])
def test_way_home_that_is_barred_for_long_is_told_and_taken_in_the_end(step: type) -> None:
    world = World(Method.SNAPSHOT, {"deadlineSeconds": 600})
    world.hypervisor.errors[step] = [Failed(Reason.COMMIT_FAILED, "No space left on device", heals=True)] * 60
    said: set[str] = set()

    def listen(world: World, _turn: int) -> None:
        if world.ledger.reports and world.run_now().tries > 3:
            said.add(status(world))

    world.each_turn = listen
    run = world.walk()
    world.assert_home(run)
    assert (run.overlay_milliseconds or 0) > 1500 * 1000
    assert said
    assert all("No space left on device" in words for words in said), said
    assert any("will end as Failed" in words for words in said), "the deadline has passed by then"


@pytest.mark.parametrize("days", [-365, 365])
def test_clock_that_jumps_with_a_reboot_does_not_keep_the_vm_on_its_overlay(days: int) -> None:
    """A node without a clock battery wakes up in 1970, and in the present again after the next reboot."""
    world = World(Method.SNAPSHOT)
    world.hypervisor.errors[steps.Pivot] = [Failed(Reason.COMMIT_FAILED, "not now", heals=True)] * 6
    jumped: list[float] = []

    def jump(world: World, _turn: int) -> None:
        if not jumped and now_in(world) is Phase.PIVOTING and world.run_now().tries > 3:
            world.clock.advance(days * 86400.0)
            jumped.append(world.clock.now())
            world.strike_at = world.effects + 1

    world.each_turn = jump
    run = world.walk()
    world.assert_home(run)
    assert jumped
    assert world.crashes == 1
    assert world.clock.now() - jumped[0] < 600


def test_vm_that_stays_off_on_its_overlay_is_waited_for_in_words() -> None:
    world = World(Method.SNAPSHOT)
    off_for = iter(range(50))

    def stop(world: World, _turn: int) -> None:
        if now_in(world) is Phase.COMMITTING and world.domain.alive and next(off_for, None) is not None:
            world.domain.shut_down_guest()
        elif not world.domain.alive and next(off_for, None) is None:
            assert "start it, and it is taken home" in status(world)
            world.domain.restart_guest()

    world.each_turn = stop
    run = world.walk()
    world.assert_home(run)
    assert run.outcome is Outcome.SUCCEEDED


def test_pivot_that_was_never_done_is_not_believed_because_somebody_redefined_the_vm() -> None:
    """On the overlay, defined on the base, pivot intended; QEMU dies. The base misses what the guest wrote."""
    world = World(Method.SNAPSHOT)
    witness = Witness(world)
    world.hypervisor.errors[steps.Pivot] = Failed(Reason.COMMIT_FAILED, "not now", heals=True)

    def meddle(world: World, _turn: int) -> None:
        witness.write()
        if now_in(world) is Phase.COMMITTING and world.domain.alive:
            for disk in world.domain.disks:
                disk.inactive_source = world.sources[disk.target]
        if now_in(world) is Phase.PIVOTING and world.domain.alive and world.run_now().tries:
            world.domain.kill_qemu()
            world.domain.restart_guest()

    world.each_turn = meddle
    run = world.walk()
    assert run.outcome is Outcome.STRANDED
    assert run.failure is not None
    assert run.failure.reason is Reason.OVERLAY_ORPHANED
    assert {disk.overlay for disk in run.disks} <= set(world.hypervisor.files)
    assert not world.store.sets


def test_definition_that_names_an_overlay_for_ever_is_told_and_its_overlay_kept() -> None:
    """Somebody saves an edit begun while the VM was on the overlay: its next start would be on old data."""
    world = World(Method.SNAPSHOT)

    def save_the_edit(world: World, _turn: int) -> None:
        if now_in(world) is Phase.CLEANING:
            world.domain.disks[0].inactive_source = world.run_now().disk("vda").overlay

    world.each_turn = save_the_edit
    run = world.walk()
    assert run.outcome is Outcome.STRANDED
    assert run.failure is not None
    assert "virsh edit" in run.failure.message
    assert run.disk("vda").overlay in world.hypervisor.files
    assert run.disk("vdb").overlay not in world.hypervisor.files


@pytest.mark.parametrize("when", ["errors", "errors_after"])
def test_set_is_not_lost_when_the_location_hides_it_just_after_the_rename(when: str) -> None:
    world = World(Method.PUSH)
    getattr(world.store, when)[steps.Publish] = [Failed(Reason.STORE_ERROR, "Stale file handle", heals=True)]
    hidden = iter(range(30))

    def hide(world: World, _turn: int) -> None:
        publishing = any(isinstance(call, steps.Publish) for call in world.store.calls)
        away = publishing and next(hidden, None) is not None
        world.store.away = "/backups does not answer" if away else ""

    world.each_turn = hide
    run = world.walk()
    world.assert_home(run)
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)


def test_agent_that_ends_takes_the_vm_home_and_begins_nothing_until_the_next_one() -> None:
    world = World(Method.SNAPSHOT)
    world.store.turns_per_work = 20
    ended_at: list[int] = []

    def end(world: World, turn: int) -> None:
        if not ended_at and now_in(world) is Phase.COPYING:
            ended_at.append(turn)
            world.ledger.wish = Wishes(stopping=True)
        if ended_at and turn == ended_at[0] + 60:
            taken = [call for call in world.hypervisor.calls if isinstance(call, steps.TakeSnapshot)]
            assert len(taken) == 1, "nothing is begun any more"
            assert [disk.source for disk in world.domain.disks] == list(world.sources.values())
            world.ledger.wish = Wishes()
            world.strike_at = world.effects + 1

    world.each_turn = end
    run = world.walk()
    world.assert_home(run)
    assert (run.outcome, run.attempt, world.crashes) == (Outcome.SUCCEEDED, 2, 1)


def test_next_attempt_survives_a_journal_and_a_hypervisor_that_fail_it() -> None:
    world = World(Method.PUSH)
    hindered = iter([{"record": FULL}, {"record": FULL}])

    def hinder(world: World, _turn: int) -> None:
        world.store.work_errors = (
            {steps.StartVerification: "I/O error"} if (not world.ledger.reports or world.run_now().attempt == 1) else {}
        )
        if now_in(world) is Phase.ASSIGNED:
            world.hypervisor.errors.setdefault("host", [NotYet(Reason.HYPERVISOR_AWAY, "cut off"), FULL])
            world.journal.errors = next(hindered, {})

    world.each_turn = hinder
    run = world.walk()
    world.assert_home(run)
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)


def test_backup_is_verified_and_published_while_libvirt_is_away() -> None:
    world = World(Method.PUSH)

    def kill(world: World, _turn: int) -> None:
        if now_in(world) is Phase.VERIFYING and not world.hypervisor.away:
            world.hypervisor.kill_daemon()

    world.each_turn = kill
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    world.assert_home(run)


def test_deleted_backup_that_rests_between_attempts_does_not_wait_for_libvirt() -> None:
    world = World(Method.PUSH)
    world.store.work_errors = {steps.StartVerification: "I/O error"}

    def kill(world: World, _turn: int) -> None:
        if now_in(world) is Phase.ASSIGNED:
            world.hypervisor.away = True
            world.ledger.wish = Wishes(deleted=True)

    world.each_turn = kill
    run = world.walk()
    assert run.outcome is Outcome.CANCELLED


def test_golden_image_below_the_base_is_never_written() -> None:
    world = World(Method.SNAPSHOT)
    world.hypervisor.images["/images/golden.qcow2"] = FakeImage("qcow2")
    world.hypervisor.images["/images/vda.qcow2"].backing = "/images/golden.qcow2"
    world.hypervisor.files["/images/golden.qcow2"] = 1
    world.hypervisor.errors[steps.StartCommit] = [Failed(Reason.COMMIT_FAILED, "busy", heals=True)] * 3
    run = world.walk()
    world.assert_home(run)
    assert world.hypervisor.images["/images/golden.qcow2"].commits == 0
