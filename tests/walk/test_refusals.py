"""Every act of a walk is refused once, before or after it took effect: the guest still comes home."""

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core import steps
from vmbackup.errors import Failed, NotYet, VMBackupError
from vmbackup.tick import sweep
from walk.world import World

HYPERVISOR = {
    Method.PUSH: (steps.FreezeGuest, steps.ThawGuest, steps.BeginPush),
    Method.SNAPSHOT: (steps.FreezeGuest, steps.ThawGuest, steps.TakeSnapshot, steps.StartCommit, steps.Pivot),
}
STORE = {
    Method.PUSH: (steps.MakeDirectory, steps.StartVerification, steps.Publish),
    Method.SNAPSHOT: (
        steps.MakeDirectory,
        steps.StartCopy,
        steps.RemoveOverlay,
        steps.StartVerification,
        steps.Publish,
    ),
}
CASES = [
    (method, port, step)
    for method in (Method.PUSH, Method.SNAPSHOT)
    for port, table in (("hypervisor", HYPERVISOR), ("store", STORE))
    for step in table[method]
]


def _name(case: object) -> str:
    return getattr(case, "__name__", str(case))


@pytest.mark.parametrize(("method", "port", "step"), CASES, ids=_name)
@pytest.mark.parametrize("when", ["errors", "errors_after"])
@pytest.mark.parametrize(
    "error",
    [
        Failed(Reason.HYPERVISOR_ERROR, "said no", heals=True),
        Failed(Reason.HYPERVISOR_ERROR, "said never"),
        NotYet(Reason.HYPERVISOR_AWAY, "cut off"),
    ],
    ids=["heals", "never", "away"],
)
def test_one_act_refused_once(method: Method, port: str, step: type, when: str, error: VMBackupError) -> None:
    world = World(method)
    getattr(getattr(world, port), when)[step] = [error]
    run = world.walk()
    assert run.outcome in (Outcome.SUCCEEDED, Outcome.FAILED)
    if run.outcome is Outcome.FAILED:
        assert run.failure is not None
        assert run.failure.message
    world.assert_home(run)


@pytest.mark.parametrize("method", [Method.PUSH, Method.SNAPSHOT])
def test_freeze_refused_with_quiesce_required_touches_nothing(method: Method) -> None:
    world = World(method, {"quiesce": "Required"})
    world.hypervisor.errors[steps.FreezeGuest] = Failed(Reason.FREEZE_FAILED, "agent says no")
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert not run.began
    world.assert_home(run)


@pytest.mark.parametrize("method", [Method.PUSH, Method.SNAPSHOT])
def test_guest_without_agent_is_backed_up_unquiesced(method: Method) -> None:
    world = World(method)
    world.domain.guest.agent = False
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    assert run.quiesced is not None
    assert run.quiesced.reason is Reason.GUEST_AGENT_MISSING
    world.assert_home(run)


def test_pivot_refused_again_and_again_then_succeeds() -> None:
    world = World(Method.SNAPSHOT)
    world.hypervisor.errors[steps.Pivot] = [Failed(Reason.COMMIT_FAILED, "not ready") for _ in range(9)]
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    world.assert_home(run)


def test_commit_dies_of_a_full_base_and_is_begun_again() -> None:
    world = World(Method.SNAPSHOT)
    deaths = iter(range(3))

    def die(world: World, _turn: int) -> None:
        merging = [disk for disk in world.domain.disks if disk.job and disk.job.kind == "active-commit"]
        if merging and next(deaths, None) is not None:
            world.domain.fail_commit(merging[0].target)

    world.each_turn = die
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    world.assert_home(run)


def test_target_full_in_mid_push_fails_without_debris() -> None:
    world = World(Method.PUSH)
    world.domain.looks = 0

    def fill(world: World, _turn: int) -> None:
        if world.domain.push:
            world.store.free_bytes = world.store.reserve_bytes

    world.each_turn = fill
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.NO_SPACE
    world.assert_home(run)


def test_too_little_space_is_refused_before_anything_is_touched() -> None:
    world = World(Method.PUSH)
    world.store.free_bytes = world.store.reserve_bytes + 1
    run = world.walk()
    assert run.outcome is Outcome.REFUSED
    assert all(isinstance(call, steps.Discard) for call in world.store.calls)
    world.assert_home(run)


@pytest.mark.parametrize("method", [Method.PUSH, Method.SNAPSHOT])
def test_location_away_while_the_unfinished_set_is_removed(method: Method) -> None:
    world = World(method)
    gone_at: list[float] = []

    def go_away(world: World, _turn: int) -> None:
        if not gone_at and world.journal.records and world.journal.runs()[0].phase is Phase.VERIFYING:
            gone_at.append(world.clock.now())
        away = bool(gone_at) and world.clock.now() < gone_at[0] + 20
        world.store.away = "/backups does not exist on this node" if away else ""

    world.each_turn = go_away
    run = world.walk()
    assert gone_at
    assert run.outcome is Outcome.SUCCEEDED
    assert run.attempt == 2
    world.assert_home(run)


@pytest.mark.parametrize("method", [Method.PUSH, Method.SNAPSHOT])
def test_location_that_stays_away_ends_the_backup_and_is_swept_when_it_is_back(method: Method) -> None:
    world = World(method)

    def go_away(world: World, _turn: int) -> None:
        if world.journal.records and world.journal.runs()[0].phase is Phase.VERIFYING:
            world.store.away = "/backups does not exist on this node"

    world.each_turn = go_away
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.debris
    assert run.failure is not None
    assert f"/backups/{run.partial_path}" in run.failure.message
    assert not sweep(world.ports, run)
    world.store.away = ""
    assert sweep(world.ports, run)
    world.assert_home(run)


def test_overlay_limit_ends_the_copy() -> None:
    world = World(Method.SNAPSHOT, {"overlay": {"maxBytes": "1Mi", "maxSeconds": 1800}})
    world.store.turns_per_work = 50

    def write(world: World, _turn: int) -> None:
        for disk in world.domain.disks:
            if disk.source.endswith(".overlay"):
                world.hypervisor.files[disk.source] += 100_000

    world.each_turn = write
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.OVERLAY_LIMIT
    world.assert_home(run)


def test_speed_limit_that_the_daemon_refuses_fails_the_backup_instead_of_being_ignored() -> None:
    world = World(Method.PUSH, {"maxBytesPerSecond": "10Mi"})
    world.hypervisor.speed_can_be_limited = False
    world.domain.looks = 0
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.SPEED_LIMIT_UNSUPPORTED
    world.assert_home(run)


@pytest.mark.parametrize("away", [1, 4])
def test_speed_limit_is_set_by_the_daemon_that_is_back(away: int) -> None:
    world = World(Method.PUSH, {"maxBytesPerSecond": "10Mi"})
    world.hypervisor.errors[steps.LimitSpeed] = [NotYet(Reason.HYPERVISOR_AWAY, "cut off")] * away
    world.domain.looks = 0
    limits: list[int] = []

    def each_turn(world: World, _turn: int) -> None:
        if world.domain.push and world.domain.push.bytes_per_second:
            limits.append(world.domain.push.bytes_per_second)
            world.domain.looks = 2

    world.each_turn = each_turn
    run = world.walk()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
    assert limits[0] == 10 * 1024**2
    world.assert_home(run)


def test_guest_restarted_on_the_stale_base_strands_the_backup_and_keeps_the_overlay() -> None:
    world = World(Method.SNAPSHOT)

    def diverge(world: World, _turn: int) -> None:
        disk = world.domain.disks[0]
        if (
            disk.source.endswith(".overlay")
            and not disk.job
            and world.domain.alive
            and disk.inactive_source != "/images/vda.qcow2"
        ):
            world.hypervisor.files[disk.source] += 1_000_000
            disk.inactive_source = "/images/vda.qcow2"
            world.domain.kill_qemu()
            world.domain.restart_guest()

    world.each_turn = diverge
    run = world.walk()
    assert run.outcome is Outcome.STRANDED
    assert run.failure is not None
    assert run.failure.reason is Reason.OVERLAY_ORPHANED
    overlay = run.disk("vda").overlay
    assert overlay in run.failure.message
    assert overlay in world.hypervisor.files
    assert world.hypervisor.images["/images/vda.qcow2"].commits == 0
    assert not world.store.sets


def test_job_that_is_only_a_ghost_after_the_daemon_died_is_aborted_and_tried_again() -> None:
    world = World(Method.PUSH)
    haunted = []

    def haunt(world: World, _turn: int) -> None:
        if world.domain.push and not haunted:
            world.domain.become_ghost()
            haunted.append(True)

    world.each_turn = haunt
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    assert run.attempt == 2
    world.assert_home(run)
