"""A guest that QEMU paused for a full or broken disk runs on when it can, and one that its owner paused does not."""

import pytest

from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core import steps
from walk.world import World, now_in, status

METHODS = (Method.PUSH, Method.SNAPSHOT)


@pytest.mark.parametrize("method", METHODS)
def test_guest_paused_for_want_of_room_runs_on_when_its_disks_are_free_again(method: Method) -> None:
    """Its overlay, or the set that QEMU copies into, was full: QEMU pauses the guest, and never wakes it by itself."""
    world = World(method)
    world.domain.looks = 0 if method is Method.PUSH else 2

    def fill(world: World, _turn: int) -> None:
        full = now_in(world) is Phase.COPYING
        world.domain.paused_by_io_error = world.domain.paused_by_io_error or full
        world.store.overlay_free_bytes = 0 if full else 10**12
        world.store.free_bytes = 0 if full else 10**12

    world.each_turn = fill
    run = world.walk()
    world.assert_home(run)
    assert run.outcome is Outcome.FAILED
    assert not world.domain.paused_by_io_error


@pytest.mark.parametrize("method", METHODS)
def test_guest_that_pauses_again_and_again_is_told_and_does_not_hold_up_the_end(method: Method) -> None:
    world = World(method)

    def break_disk(world: World, _turn: int) -> None:
        if now_in(world) is not Phase.PREPARING:
            world.domain.paused_by_io_error = True

    world.each_turn = break_disk
    run = world.walk()
    world.assert_home(run)
    assert run.outcome is Outcome.SUCCEEDED
    assert "virsh resume demo_vm1" in run.left
    assert "virsh resume demo_vm1" in status(world)


def test_guest_paused_by_its_push_runs_on_though_libvirt_is_away_while_the_set_is_removed() -> None:
    world = World(Method.PUSH)
    world.domain.looks = 0
    away_at: list[int] = []

    def each_turn(world: World, turn: int) -> None:
        full = now_in(world) is Phase.COPYING
        world.domain.paused_by_io_error = world.domain.paused_by_io_error or full
        world.store.free_bytes = 0 if full else 10**12
        if now_in(world) is Phase.DISCARDING and not away_at:
            away_at.append(turn)
            world.hypervisor.kill_daemon()
        if away_at and turn == away_at[0] + 30:
            assert not world.store.directories, "what touches only our files does not wait for libvirt"
            assert "cannot be seen" in status(world)
            world.hypervisor.start_daemon()

    world.each_turn = each_turn
    run = world.walk()
    world.assert_home(run)
    assert run.outcome is Outcome.FAILED
    assert not world.domain.paused_by_io_error


@pytest.mark.parametrize("pause", ["paused", "paused_by_io_error"])
def test_guest_that_was_paused_before_stays_paused(pause: str) -> None:
    world = World(Method.SNAPSHOT)
    setattr(world.domain, pause, True)
    world.assert_home(world.walk())
    assert getattr(world.domain, pause)
    assert not [call for call in world.hypervisor.calls if isinstance(call, steps.ResumeGuest)]
