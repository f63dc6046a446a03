"""libvirt 9.0 loses a VM in mid pivot: QEMU goes on with the base, the definition still names the overlay."""

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.steps import Pivot, RemoveOverlay, StartCommit
from walk.world import World, now_in

BASE = "/images/vda.qcow2"


def lose_the_pivot(world: World, *, base_for: float, overlay_for: float = 0.0, off_for: int = 5) -> None:
    """Kill QEMU as the pivot is begun, and start the VM `off_for` turns later by its old definition, on the overlay.

    base_for, overlay_for: seconds that each image was written to after the pivot was intended.
    """
    times = world.store.written_at
    overlays: dict[str, str] = {}
    died: list[int] = []

    def strike(call: object, when: str) -> None:
        if call is Pivot and when == "before" and not died:
            died.append(0)
            times[BASE] = 1000.0 + base_for
            times[overlays["vda"]] = 1000.0 + overlay_for
            world.domain.kill_qemu()

    def each_turn(world: World, _turn: int) -> None:
        if not overlays and world.domain.disks[0].source.endswith(".overlay"):
            overlays["vda"] = world.domain.disks[0].source
            times.update({BASE: 1000.0, overlays["vda"]: 900.0})
        if died:
            died[0] += 1
            if died[0] == off_for:
                world.domain.restart_guest()

    world.hypervisor.hook = strike
    world.each_turn = each_turn


@pytest.mark.parametrize("off_for", [1, 30], ids=["started again at once", "off for a while"])
def test_overlay_is_not_merged_over_what_the_guest_has_written_since(off_for: int) -> None:
    world = World(Method.SNAPSHOT, disks=("vda",))
    lose_the_pivot(world, base_for=300, off_for=off_for)
    run = world.walk()
    assert run.outcome is Outcome.STRANDED
    assert run.failure is not None
    assert run.failure.reason is Reason.OVERLAY_ORPHANED
    overlay = run.disk("vda").overlay
    assert BASE in run.failure.message
    assert overlay in run.failure.message
    assert overlay in world.hypervisor.files, "nothing is deleted"
    begun = [call for call in world.hypervisor.calls if isinstance(call, StartCommit)]
    assert len(begun) == 1, "nothing is committed again"
    assert not [call for call in world.store.calls if isinstance(call, RemoveOverlay)]
    assert not world.store.sets


def test_qemu_that_died_just_before_its_pivot_is_taken_home() -> None:
    world = World(Method.SNAPSHOT, disks=("vda",))
    lose_the_pivot(world, base_for=0)
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    world.assert_home(run)


def test_guest_that_writes_on_after_it_was_seen_on_its_overlay_is_taken_home() -> None:
    """The overlay is newer than the base then, and the base newer than the pivot: but that was judged before."""
    world = World(Method.SNAPSHOT, disks=("vda",))
    lose_the_pivot(world, base_for=20, overlay_for=20)
    kill = world.each_turn

    def each_turn(world: World, turn: int) -> None:
        kill(world, turn)
        if now_in(world) is Phase.COMMITTING and world.domain.alive and world.run_now().disk("vda").commits == 1:
            world.store.written_at[world.domain.disks[0].source] += 60

    world.each_turn = each_turn
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    world.assert_home(run)
