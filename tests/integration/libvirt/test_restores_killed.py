"""Agent, daemon and QEMU die in the midst of a restore: it is wholly there, and nothing else is left."""

import pytest

from integration.libvirt.comeback import backed_up, holds, left, of_restored
from integration.libvirt.restores import RestoreEngine, process, restore
from integration.libvirt.rig import Rig
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome

pytestmark = pytest.mark.usefixtures("restored")

DEATHS = {
    "new_domain": (
        "in Preparing", "before Prepare", "after Prepare", "after StartCopy", "in Verifying", "after StartVerification",
        "before Place", "after Place", "before Define", "after Define", "before StartDomain", "after StartDomain",
        "before Release", "after Release", "in Done",
    ),
    "in_place": (
        "after Prepare", "after StartCopy", "after StartVerification", "before Swap", "after Swap", "after StartDomain",
        "before Release", "after Release",
    ),
    "instant": (
        "before Prepare", "after Prepare", "after StartVerification", "before Place", "after Place",
        "before StartDomain", "after StartDomain", "before StartPull", "after StartPull",
        "before FlushDisks", "after FlushDisks", "before Define", "after Define", "before Release", "after Release",
    ),
}  # fmt: skip
TARGETS = {
    "new_domain": {"new_domain": {"name": "back", "start": True}},
    "in_place": {"in_place": {"overwrite": True, "start": True}},
    "instant": {"instant": {"name": "back"}},
}


@pytest.mark.parametrize(("kind", "death"), [(kind, death) for kind, deaths in DEATHS.items() for death in deaths])
def test_agent_killed_and_restarted(rig: Rig, kind: str, death: str) -> None:
    vm = backed_up(rig, verify="Check")
    if kind == "in_place":
        vm.stop()
    engine = RestoreEngine(rig.daemon.uri, rig.state)
    begun = engine.begin(rig, vm.short_name, TARGETS[kind])
    assert process(rig, death).wait(120) == -9, (rig.place / "restore.log").read_text()
    assert process(rig).wait(120) == 0, (rig.place / "restore.log").read_text()
    (run,) = engine.journal.runs()
    assert run.uid == begun.uid
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    second = vm if kind == "in_place" else of_restored(rig, run)
    assert second.portrait().state == "running"
    assert holds(second, vda=0x11, vdb=0x22)
    assert left(rig) == []


def test_daemon_killed_in_mid_pull(rig: Rig) -> None:
    vm = backed_up(rig)
    killed = []

    def kill(moment: str, _run: RestoreRun) -> None:
        if moment == "after StartPull" and not killed:
            killed.append(moment)
            rig.daemon.kill_daemon()
            rig.daemon.start_daemon()

    run = restore(rig, vm.short_name, {"instant": {"name": "back"}}, hook=kill)
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert holds(of_restored(rig, run), vda=0x11, vdb=0x22)
    assert left(rig) == []


@pytest.mark.parametrize("moment", ["after StartDomain", "after StartPull", "before FlushDisks"])
def test_qemu_killed_before_all_is_on_disk(rig: Rig, moment: str) -> None:
    """QEMU takes the set's name out of an image before what it has brought is on disk for certain."""
    vm = backed_up(rig)
    killed = []

    def kill(now: str, run: RestoreRun) -> None:
        if now == moment and not killed:
            killed.append(now)
            of_restored(rig, run).kill_qemu()

    run = restore(rig, vm.short_name, {"instant": {"name": "back"}}, hook=kill)
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert killed == [moment]
    second = of_restored(rig, run)
    assert holds(second, vda=0x11, vdb=0x22)
    second.start()
    assert {len(chain) for chain in second.portrait().live.values()} == {1}
    assert left(rig) == []
