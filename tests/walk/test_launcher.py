"""A backup of a VM in a launcher pod, killed and refused everywhere: whatever happens, nothing is left mounted."""

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Method, Outcome
from vmbackup.core.steps import BeginPush, MountDirectory, StartVerification, UnmountDirectory
from vmbackup.errors import Failed, Refused
from walk.strikes import cancelled_at, daemon_dies_at, killed_again, pod_deleted_at
from walk.world import LAUNCHER, World

TURNS = 60


def pod_world(**changes: object) -> World:
    return World(Method.PUSH, in_pod=True, **changes)  # type: ignore[arg-type]


def acts(world: World) -> list[type]:
    """Return what was done to location and pod, in order."""
    return [type(step) for step in world.store.calls]


def test_set_is_shown_to_the_pod_while_qemu_writes_and_to_nobody_when_it_is_verified() -> None:
    world = pod_world()
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    order = acts(world)
    assert [order.count(step) for step in (MountDirectory, UnmountDirectory)] == [1, 1]
    assert order.index(UnmountDirectory) < order.index(StartVerification)
    begun = next(step for step in world.hypervisor.calls if isinstance(step, BeginPush))
    assert {path.rpartition("/")[0] for _, path in begun.targets} == {run.target_directory}
    assert run.target_directory.startswith(LAUNCHER.directory)
    world.assert_home(run)


def test_mount_is_in_the_journal_before_it_is_made() -> None:
    world = pod_world()
    recorded: list[bool] = []

    def look(call: object, when: str) -> None:
        if call is MountDirectory and when == "before":
            (run,) = world.journal.runs()
            recorded.append(run.mounted)

    world.store.hook = look
    assert world.walk().outcome is Outcome.SUCCEEDED
    assert recorded == [True]


def test_agent_killed_at_every_effect_leaves_nothing_mounted() -> None:
    for strike in range(1, pod_world().effects_of_a_good_walk() + 1):
        world = pod_world(strike_at=strike)
        run = world.walk()
        assert world.crashes == 1, f"effect {strike} was not reached"
        assert run.outcome is Outcome.SUCCEEDED, f"effect {strike}: {run.failure}"
        assert not run.mounted
        world.assert_home(run)


def test_agent_killed_twice_leaves_nothing_mounted() -> None:
    for first in range(1, pod_world().effects_of_a_good_walk(), 3):
        world = pod_world(strike_at=first)
        world.each_turn = killed_again(first, effects=5)
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"effect {first}: {run.failure}"
        world.assert_home(run)


def test_cancelled_at_every_turn_leaves_nothing_mounted() -> None:
    outcomes = set()
    for moment in range(TURNS):
        world = pod_world()
        world.each_turn = cancelled_at(moment)
        run = world.walk()
        outcomes.add(run.outcome)
        world.assert_home(run)
    assert outcomes == {Outcome.CANCELLED, Outcome.SUCCEEDED}


def test_pod_gone_at_every_turn_is_a_failure_in_words_and_leaves_nothing_mounted() -> None:
    ends: list[Run] = []
    for moment in range(TURNS):
        world = pod_world()
        world.each_turn = pod_deleted_at(moment)
        run = world.walk()
        assert not world.store.mounts
        assert not world.store.directories
        assert list(world.store.sets.values()) == ([run.uid] if run.outcome is Outcome.SUCCEEDED else [])
        ends.append(run)
    failed = [run for run in ends if run.outcome is not Outcome.SUCCEEDED]
    assert failed
    for run in failed:
        assert run.failure is not None
        assert run.failure.reason is Reason.VM_NOT_FOUND
        assert LAUNCHER.pod_uid in run.failure.message
        assert "deleted or restarted" in run.failure.message


def test_daemon_in_the_pod_restarted_at_every_turn_is_survived() -> None:
    for moment in range(40):
        world = pod_world()
        world.each_turn = daemon_dies_at(moment)
        run = world.walk()
        assert run.outcome is Outcome.SUCCEEDED, f"turn {moment}: {run.failure}"
        world.assert_home(run)


def test_set_stays_unverified_while_the_pod_cannot_be_kept_from_it() -> None:
    world = pod_world()
    busy = [Failed(Reason.STORE_ERROR, "Device or resource busy") for _ in range(8)]
    world.store.errors[UnmountDirectory] = busy  # type: ignore[assignment]
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    assert acts(world).count(UnmountDirectory) == 9
    assert max(run.tries for run, _ in world.ledger.reports) > 5
    assert any("busy" in run.trouble for run, _ in world.ledger.reports)
    world.assert_home(run)


def test_unmount_that_failed_often_does_not_keep_the_unfinished_set_from_being_removed() -> None:
    world = pod_world(spec={"quiesce": "Required"})
    world.domain.guest.agent = False
    world.store.errors[UnmountDirectory] = [Failed(Reason.STORE_ERROR, "busy") for _ in range(8)]
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    world.assert_home(run)


def test_mount_refused_is_a_failure_and_nothing_is_begun() -> None:
    world = pod_world()
    world.store.errors[MountDirectory] = Refused(Reason.STORE_ERROR, "Operation not permitted")
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert "not permitted" in run.failure.message
    assert not any(isinstance(step, BeginPush) for step in world.hypervisor.calls)
    world.assert_home(run)


def test_mount_that_the_pod_cannot_see_is_a_failure_in_words() -> None:
    world = pod_world()

    def hide(call: object, when: str) -> None:
        if call is BeginPush and when == "before":
            world.hypervisor.mounts = {}

    world.hypervisor.hook = hide
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert "No such file" in run.failure.message
    world.assert_home(run)


@pytest.mark.parametrize("method", [Method.SNAPSHOT])
def test_snapshot_is_refused_in_a_pod_with_the_reason(method: Method) -> None:
    world = World(method, in_pod=True)
    with pytest.raises(Refused, match="an overlay does not survive it") as refusal:
        world.begin()
    assert refusal.value.reason == Reason.METHOD_UNSUPPORTED
    assert "Use method Push" in refusal.value.message


def test_auto_takes_push_or_refuses_but_never_snapshots_in_a_pod() -> None:
    world = World(Method.AUTO, in_pod=True)
    assert world.begin().method is Method.PUSH
    world.hypervisor.libvirt_version = 7_000_000
    with pytest.raises(Refused, match="cannot push a full backup"):
        world.begin()
