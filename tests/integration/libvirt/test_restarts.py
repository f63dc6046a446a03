"""Agent, libvirtd or QEMU die in mid backup: the VM comes home, and what is published is one whole set.

The full matrix of faults is elsewhere; here is one death per phase and per act that changes something.
"""

import signal
from pathlib import Path

import libvirt
import pytest

from integration.libvirt.alone import run_alone
from integration.libvirt.machines import VM, same_content, wait_until
from integration.libvirt.releases import methods, pushing, releases
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from testbed.guests import Disk
from vmbackup.api.conditions import ConditionType
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.units import MIB

PUSH = ["in Preparing", "in Freezing", "in Starting", "after BeginPush", "in Copying", "in Verifying", "in Publishing"]
SNAPSHOT = ["in Preparing", "in Freezing", "in Snapshotting", "after TakeSnapshot", "in Copying", "in Committing"]
SNAPSHOT += ["after StartCommit", "before Pivot", "after Pivot", "in Cleaning", "in Verifying", "in Publishing"]
DEATHS = [
    *(("9.0", "Push", moment) for moment in [*PUSH, "after Publish"]),
    *(("9.0", "Snapshot", moment) for moment in [*SNAPSHOT, "after Publish"]),
    ("11.3", "Push", "after BeginPush"),
    ("11.3", "Snapshot", "before Pivot"),
    ("7.0", "Snapshot", "after TakeSnapshot"),
    ("7.0", "Snapshot", "after Pivot"),
]


def two_disks(rig: Rig) -> VM:
    return rig.vm(Disk(rig.image("a", data_mib=4)), Disk(rig.image("b", "raw", data_mib=4), "vdb", "raw"))


# -- the agent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("release", "method", "moment"), DEATHS)
def test_agent_is_killed_and_started_again(rig: Rig, method: str, moment: str) -> None:
    vm = two_disks(rig)
    before = vm.portrait()
    rig.plan(vm, method=method)
    assert rig.process(death=moment).wait(60) == -signal.SIGKILL, "the moment never came"
    run = rig.finish()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.phase is Phase.DONE
    published = assert_published(rig, run)
    for disk in run.disks:
        assert same_content(published / disk.image, vm.paths[disk.target])
    assert vm.portrait() == before


@pytest.mark.parametrize("release", ["9.0", "7.0"])
def test_agent_is_killed_in_mid_copy_and_its_successor_copies_again(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("vda", data_mib=16)))
    before = vm.portrait()
    rig.plan(vm, method="Snapshot", max_bytes_per_second="4Mi")
    agent = rig.process()
    wait_until(lambda: rig.record().phase is Phase.COPYING and list(rig.location.rglob("vda.qcow2")), "a copy runs")
    agent.kill()
    agent.wait()
    vm.writes("vda", 0, MIB)  # the guest goes on, on the overlay
    run = rig.finish()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
    published = assert_published(rig, run)
    assert not same_content(published / "vda.qcow2", vm.paths["vda"]), "the set shows a later moment than it says"
    assert vm.portrait() == before


def test_agent_is_killed_in_mid_push_and_its_successor_adopts_the_job(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.large_image()))
    before = vm.portrait()
    rig.plan(vm, method="Push", max_bytes_per_second="1Mi")
    agent = rig.process()
    wait_until(lambda: rig.record().limited, "the push runs, slowly")
    agent.kill()
    agent.wait()
    vm.slow_down(0)
    run = rig.finish()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1), "the running job was not adopted"
    assert same_content(assert_published(rig, run) / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before


@methods
def test_agent_comes_back_only_after_the_deadline(rig: Rig, method: str) -> None:
    vm = rig.vm(Disk(rig.large_image() if method == "Push" else rig.image("vda", data_mib=16)))
    before = vm.portrait()
    rig.plan(vm, method=method, max_bytes_per_second="1Mi", deadline_seconds=4)
    agent = rig.process()
    wait_until(lambda: rig.record().phase is Phase.COPYING, "it is copied")
    agent.kill()
    agent.wait()
    record = rig.record()
    wait_until(lambda: rig.clock() > record.deadline_at, "the deadline is over")
    run = rig.finish()
    assert run.failure is not None
    assert (run.outcome, run.failure.reason) == (Outcome.FAILED, "DeadlineExceeded")
    assert_nothing_published(rig)
    assert vm.portrait() == before


# -- libvirtd ---------------------------------------------------------------------------------------------------------


@pushing
def test_libvirtd_is_killed_in_mid_push(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.large_image()))
    before = vm.portrait()
    backup = rig.held_push(vm)
    rig.daemon.kill_daemon()
    wait_until(lambda: backup.engine.ledger.reports[-1][1].hypervisor_problem, "the engine has noticed")
    rig.daemon.start_daemon()
    vm.slow_down(0)
    run = backup.end()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
    assert same_content(assert_published(rig, run) / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before


@releases
def test_libvirtd_is_killed_while_the_vm_is_on_overlays(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("vda", data_mib=16)))
    before = vm.portrait()
    backup = rig.held_copy(vm, max_bytes_per_second="4Mi")
    rig.daemon.kill_daemon()
    wait_until(lambda: backup.engine.ledger.reports[-1][1].hypervisor_problem, "the engine has noticed")
    rig.daemon.start_daemon()
    run = backup.end()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
    assert same_content(assert_published(rig, run) / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before


@pytest.mark.parametrize(
    ("method", "moment"),
    [
        ("Push", "before BeginPush"),
        ("Push", "after BeginPush"),
        ("Snapshot", "before TakeSnapshot"),
        ("Snapshot", "after TakeSnapshot"),
        ("Snapshot", "before StartCommit"),
        ("Snapshot", "after StartCommit"),
        ("Snapshot", "before Pivot"),
        ("Snapshot", "after Pivot"),
        ("Snapshot", "before RemoveOverlay"),
    ],
)
def test_libvirtd_is_restarted_around_an_act(rig: Rig, method: str, moment: str) -> None:
    vm = two_disks(rig)
    before = vm.portrait()
    seen: list[str] = []

    def hook(at: str, _run: object) -> None:
        if at == moment and not seen:
            seen.append(at)
            rig.daemon.kill_daemon()
            rig.daemon.start_daemon()

    run = rig.backup(vm, method=method, hook=hook).end()
    assert seen
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert_published(rig, run)
    assert vm.portrait() == before


@methods
def test_libvirtd_is_away_before_anything_has_begun(rig: Rig, method: str) -> None:
    vm = rig.vm()
    rig.daemon.kill_daemon()
    ours = run_alone(rig, vm, method=method)
    ours.wait_for(ConditionType.RECONCILING, "HypervisorAway")
    rig.daemon.start_daemon()
    assert ours.end() is Outcome.SUCCEEDED, ours.why()
    assert len(rig.sets()) == 1


# -- QEMU -------------------------------------------------------------------------------------------------------------


@pushing
def test_qemu_is_killed_in_mid_push_and_the_vm_started_again(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.large_image()))
    backup = rig.held_push(vm)
    vm.kill_qemu()
    wait_until(lambda: backup.seen.attempt == 2 or not backup.thread.is_alive(), "the attempt is over")
    assert rig.sets() == []
    vm.start()
    run = backup.end()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.attempt > 1
    assert same_content(assert_published(rig, run) / "vda.qcow2", vm.paths["vda"])


@releases
def test_qemu_is_killed_on_the_overlay_and_the_vm_started_again(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("vda", data_mib=16)))
    files = vm.portrait().files
    backup = rig.held_copy(vm, max_bytes_per_second="4Mi")
    vm.writes("vda", 32 * MIB, MIB, byte=0xC3)
    vm.kill_qemu()
    wait_until(lambda: backup.phase is Phase.COMMITTING, "the copy is over, the VM still off")
    vm.start()
    run = backup.end()
    assert run.phase is Phase.DONE
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert_published(rig, run)
    after = vm.portrait()
    assert (after.state, after.jobs, after.files) == ("running", {}, files)
    assert after.live == {"vda": [str(vm.paths["vda"])]}
    assert after.inactive == {"vda": str(vm.paths["vda"])}
    assert vm.holds("vda", 32 * MIB, 0xC3), "what the guest wrote to the overlay is lost"


def test_vm_is_off_and_cancelled_on_the_overlay_and_comes_home_when_it_starts(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("vda", data_mib=16)))
    backup = rig.held_copy(vm)
    vm.writes("vda", 32 * MIB, MIB, byte=0xC3)
    vm.stop()
    backup.cancel()
    wait_until(lambda: backup.phase is Phase.COMMITTING, "it is on its way home")
    assert vm.portrait().inactive["vda"].endswith(".overlay"), "a VM that is off keeps the overlay: it boots from it"
    vm.start()
    assert backup.end().outcome is Outcome.CANCELLED
    assert_nothing_published(rig)
    assert vm.portrait().live == {"vda": [str(vm.paths["vda"])]}
    assert vm.holds("vda", 32 * MIB, 0xC3)


# -- what no machine may decide ---------------------------------------------------------------------------------------


def test_vm_without_a_definition_dies_on_the_overlay_and_a_human_must_look(rig: Rig) -> None:
    """Nobody but the overlay knows what the guest wrote last: it is neither merged nor removed."""
    vm = rig.vm(Disk(rig.image("vda", data_mib=16)), persistent=False)
    backup = rig.held_copy(vm)
    vm.writes("vda", 32 * MIB, MIB, byte=0xC3)
    overlay = Path(backup.first.disk("vda").overlay)
    vm.kill_qemu()
    backup.cancel()
    run = backup.end()
    assert_stranded(run, overlay, vm)
    assert rig.sets() == []


def test_vm_is_started_from_its_old_disk_and_a_human_must_look(rig: Rig) -> None:
    """Somebody defines the VM anew while it is on the overlay: its next start writes to a base that misses it."""
    vm = rig.vm(Disk(rig.image("vda", data_mib=16)))
    with vm.domain() as domain:
        definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    backup = rig.held_copy(vm)
    vm.writes("vda", 32 * MIB, MIB, byte=0xC3)
    overlay = Path(backup.first.disk("vda").overlay)
    with vm.domain() as domain:
        domain.connect().defineXML(definition)
    vm.kill_qemu()
    vm.start()
    run = backup.end()
    assert_stranded(run, overlay, vm)
    assert vm.portrait().live == {"vda": [str(vm.paths["vda"])]}, "the VM goes on as it was started"
    assert rig.sets() == []


def assert_stranded(run: Run, overlay: Path, vm: VM) -> None:
    assert run.failure is not None
    assert (run.outcome, run.failure.reason) == (Outcome.STRANDED, "OverlayOrphaned")
    assert str(overlay) in run.failure.message
    assert "Nothing was merged or removed" in run.failure.message
    assert overlay.stat().st_size > MIB, "what the guest wrote last is gone"
    assert not vm.holds("vda", 32 * MIB, 0xC3), "the overlay was merged into a disk that may have been written"
