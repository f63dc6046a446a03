"""The journal of a node is lost or full, or nothing moves any more: the VM is brought home all the same."""

from fakes.disks import FakeImage
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.rescue import adopted, rescue
from vmbackup.core.steps import AbortJob
from vmbackup.errors import Failed
from vmbackup.tick import Turn, drive, tick
from walk.world import UID, World


def walk_until(world: World, phase: Phase) -> None:
    turn = Turn(world.begin())
    while turn.run.phase is not phase:
        turn = tick(world.ports, turn)
        world.clock.advance(0.1)


def lose_journal(world: World) -> None:
    world.journal.records.clear()
    world.store.crash()
    world.hypervisor.restart_agent()


def test_overlay_without_a_journal_is_merged_and_removed() -> None:
    world = World(Method.SNAPSHOT)
    world.store.turns_per_work = 100
    walk_until(world, Phase.COPYING)
    lose_journal(world)
    run = rescue(world.hypervisor.find("demo_vm1"), set(), world.clock.now())
    assert run is not None
    assert run.uid == UID
    run = drive(world.ports, run, world.clock.advance)
    assert run.outcome is Outcome.FAILED
    assert [disk.source for disk in world.domain.disks] == list(world.sources.values())
    assert not [path for path in world.hypervisor.files if path.endswith(".overlay")]


def test_push_job_without_a_journal_is_aborted_and_its_directory_removed() -> None:
    world = World(Method.PUSH)
    world.domain.looks = 0
    walk_until(world, Phase.COPYING)
    lose_journal(world)
    run = rescue(world.hypervisor.find("demo_vm1"), set(), world.clock.now())
    assert run is not None
    world.assert_home(drive(world.ports, run, world.clock.advance))


def test_lost_journal_of_a_backup_that_still_exists_leads_to_a_new_attempt() -> None:
    world = World(Method.SNAPSHOT)
    world.store.turns_per_work = 100
    walk_until(world, Phase.COPYING)
    lose_journal(world)
    world.store.turns_per_work = 2
    lost = rescue(world.hypervisor.find("demo_vm1"), set(), world.clock.now())
    assert lost is not None
    run = drive(world.ports, adopted(lost, world.request()), world.clock.advance)
    assert run.outcome is Outcome.SUCCEEDED
    assert run.attempt == 2
    assert [disk.source for disk in world.domain.disks] == list(world.sources.values())


def test_a_run_of_the_journal_is_not_rescued_and_strangers_are_left_alone() -> None:
    world = World(Method.SNAPSHOT)
    walk_until(world, Phase.COPYING)
    assert rescue(world.hypervisor.find("demo_vm1"), {UID}, 0.0) is None
    stranger = World()
    stranger.domain.start_foreign_job("backup", {"vda": "/elsewhere/vda.qcow2"})
    assert rescue(stranger.hypervisor.find("demo_vm1"), set(), 0.0) is None


def test_copy_that_stands_still_is_a_fault_and_the_vm_goes_home() -> None:
    world = World(Method.SNAPSHOT)
    world.store.turns_per_work = 10**9
    run = world.begin().model_copy(update={"stall_seconds": 20})

    def hang(world: World, _turn: int) -> None:
        world.store.files.update(
            {path: 5 for path in world.store.files if path.endswith("vda.qcow2") and ".partial" in path}
        )

    turn = Turn(run)
    reasons = set()
    while turn.wait_seconds is not None:
        hang(world, 0)
        turn = tick(world.ports, turn)
        if turn.run.failure:
            reasons.add(turn.run.failure.reason)
        world.clock.advance((turn.wait_seconds or 0) + 0.01)
    assert "Stalled" in reasons
    world.assert_home(turn.run)


def test_push_job_that_stands_still_is_aborted() -> None:
    world = World(Method.PUSH, {"deadlineSeconds": 400})
    world.domain.looks = 0
    run = world.walk()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    world.assert_home(run)


def test_abort_refused_again_and_again_is_tried_until_it_works() -> None:
    world = World(Method.PUSH, {"deadlineSeconds": 5})
    world.domain.looks = 0
    world.hypervisor.errors[AbortJob] = [Failed("HypervisorError", "busy") for _ in range(7)]
    world.assert_home(world.walk())


def test_journal_full_while_on_the_overlay_does_not_keep_the_vm_there() -> None:
    world = World(Method.SNAPSHOT)

    def fill(world: World, _turn: int) -> None:
        away = any(disk.source.endswith(".overlay") for disk in world.domain.disks)
        world.journal.errors = {"record": Failed("StoreError", "no space left for the journal")} if away else {}

    world.each_turn = fill
    world.assert_home(world.walk())


def test_journal_full_before_the_snapshot_touches_nothing_until_there_is_room() -> None:
    world = World(Method.SNAPSHOT)
    seen = []

    def fill(world: World, turn: int) -> None:
        full = 3 < turn < 40
        world.journal.errors = {"record": Failed("StoreError", "no space left for the journal")} if full else {}
        if full:
            seen.append([disk.source for disk in world.domain.disks])

    world.each_turn = fill
    run = world.walk()
    assert run.outcome is Outcome.SUCCEEDED
    assert all(sources == list(world.sources.values()) for sources in seen)
    world.assert_home(run)


def test_overlay_below_a_strangers_snapshot_is_stranded_and_merged_when_that_is_gone() -> None:
    world = World(Method.SNAPSHOT)
    world.store.turns_per_work = 20
    snapshot = "/images/stranger.snapshot"

    def take_a_snapshot(world: World, _turn: int) -> None:
        disk = world.domain.disk("vda")
        if disk.source.endswith(".overlay") and not disk.job:
            world.domain.take_snapshot({"vda": snapshot})

    world.each_turn = take_a_snapshot
    run = world.walk()
    overlay = run.disk("vda").overlay
    assert run.outcome is Outcome.STRANDED
    assert run.covered
    assert run.failure is not None
    assert "Nothing is lost" in run.failure.message
    assert overlay in world.hypervisor.files
    assert world.domain.disk("vdb").source == world.sources["vdb"]
    disk = world.domain.disk("vda")
    disk.source = disk.inactive_source = overlay  # its maker has merged it
    lose_journal(world)
    lost = rescue(world.hypervisor.find("demo_vm1"), set(), world.clock.now())
    assert lost is not None
    world.each_turn = lambda _world, _turn: None
    drive(world.ports, lost, world.clock.advance)
    assert [disk.source for disk in world.domain.disks] == list(world.sources.values())
    assert overlay not in world.hypervisor.files


def test_overlay_that_was_put_on_somebody_elses_layer_is_left_to_a_human() -> None:
    world = World(Method.SNAPSHOT)
    world.store.turns_per_work = 20

    def move_the_base(world: World, _turn: int) -> None:
        disk = world.domain.disk("vda")
        if disk.source.endswith(".overlay"):
            world.hypervisor.images["/images/other.qcow2"] = FakeImage("qcow2")
            world.hypervisor.images[disk.source].backing = "/images/other.qcow2"

    world.each_turn = move_the_base
    run = world.walk()
    assert run.outcome is Outcome.STRANDED
    assert not run.covered
    assert run.failure is not None
    assert "below it lies /images/other.qcow2" in run.failure.message
    assert world.hypervisor.images["/images/other.qcow2"].commits == 0
    assert run.disk("vda").overlay in world.hypervisor.files
