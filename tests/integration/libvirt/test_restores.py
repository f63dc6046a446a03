"""A set comes back: as a second VM, as files, in place of the VM's own disks, at once; and is proved by booting it."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from integration.libvirt.comeback import MARK, backed_up, holds, left, of_restored
from integration.libvirt.restores import RestoreEngine, images, restore
from integration.libvirt.rig import NAMESPACE, Rig
from testbed.guests import Disk
from testbed.images import qemu_img
from vmbackup.api.conditions import Reason
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.facts import Wishes
from vmbackup.errors import Refused
from vmbackup.units import MIB

pytestmark = pytest.mark.usefixtures("restored")


# -- a second VM ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_a_second_vm_with_the_content_of_the_set_runs_beside_the_first(rig: Rig, method: str) -> None:
    vm = backed_up(rig, method=method)
    run = restore(rig, vm.short_name, {"new_domain": {"name": "back", "start": True}})
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    second = of_restored(rig, run)
    assert second.portrait().state == "running"
    assert vm.portrait().state == "running"
    assert second.xml().findtext("name") == f"{NAMESPACE}_back"
    assert second.uuid != vm.uuid
    assert holds(second, vda=0x11, vdb=0x22)
    assert holds(vm, vda=0x77, vdb=0x77)
    assert left(rig) == []


def test_a_lost_vm_comes_back_from_its_set_alone(rig: Rig) -> None:
    vm = backed_up(rig)
    vm.remove()
    shutil.rmtree(rig.disks)
    rig.disks.mkdir()
    run = restore(rig, vm.short_name, {"new_domain": {"name": "back", "mac_addresses": "Keep", "start": True}})
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert holds(of_restored(rig, run), vda=0x11, vdb=0x22)


def test_a_name_that_is_taken_is_refused(rig: Rig) -> None:
    vm = backed_up(rig)
    with pytest.raises(Refused) as refusal:
        restore(rig, vm.short_name, {"new_domain": {"name": vm.short_name}})
    assert refusal.value.reason == Reason.VM_EXISTS


@pytest.mark.parametrize("harm", ["flip", "truncate", "backing"])
def test_a_broken_set_restores_nothing(rig: Rig, harm: str) -> None:
    vm = backed_up(rig)
    image = next(rig.location.rglob("vda.qcow2"))
    if harm == "flip":
        with image.open("r+b") as file:
            file.seek(-4096, 2)
            file.write(b"\xff" * 4096)
    elif harm == "truncate":
        with image.open("r+b") as file:
            file.truncate(MIB)
    else:
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/hostname", str(image))
    run = restore(rig, vm.short_name, {"new_domain": {"name": "back"}})
    assert run.outcome in (Outcome.FAILED, Outcome.REFUSED)
    assert run.failure is not None
    assert run.failure.reason in (Reason.VERIFICATION_FAILED, Reason.SET_BROKEN)
    assert left(rig) == []
    assert not list(images(rig).rglob("*.qcow2"))


# -- files ----------------------------------------------------------------------------------------------------------


def test_chosen_disks_as_raw_files(rig: Rig) -> None:
    vm = backed_up(rig)
    run = restore(rig, vm.short_name, {"disks": {"include": ["vda"], "format": "Raw"}})
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    (disk,) = run.disks
    assert disk.file.endswith("/vda.raw")
    assert qemu_img("compare", "-f", "raw", "-F", "qcow2", disk.file, str(next(rig.location.rglob("vda.qcow2"))))
    assert sorted(path.name for path in Path(disk.file).parent.iterdir()) == ["vda.raw", "virtualmachine.yaml"]
    manifest = yaml.safe_load((Path(disk.file).parent / "virtualmachine.yaml").read_text())
    pod = manifest["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "vda", "hostDisk": {"path": disk.file, "type": "Disk"}}]
    assert pod["domain"]["memory"]["guest"].endswith("Mi")
    assert left(rig) == []


def test_a_set_on_a_read_only_file_system_is_copied_but_no_guest_runs_on_it(rig: Rig) -> None:
    root = rig.move_to("small")
    vm = rig.vm()
    assert rig.run(vm).outcome is Outcome.SUCCEEDED
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    rig.at_end(lambda: subprocess.run(["mount", "-o", "remount,rw", str(root)], check=True))
    copied = restore(rig, vm.short_name, {"disks": {}})
    assert copied.outcome is Outcome.SUCCEEDED, copied.failure
    refused = restore(rig, vm.short_name, {"instant": {"name": "back"}})
    assert refused.outcome is Outcome.REFUSED
    assert refused.failure is not None
    assert "newDomain" in refused.failure.message


def test_too_little_room_is_refused_before_anything_is_written(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("a", mib=400, data_mib=300)))
    assert rig.run(vm, method="Push").outcome is Outcome.SUCCEEDED
    small = rig.daemon.images / "small"
    engine = RestoreEngine(rig.daemon.uri, rig.state)
    begun = engine.begin(rig, vm.short_name, {"disks": {}}).model_copy(update={"images_path": str(small)})
    run = engine.finish(begun)
    assert run.outcome is Outcome.REFUSED
    assert run.failure is not None
    assert run.failure.reason is Reason.NO_SPACE
    assert not (small / NAMESPACE).exists()


def test_cancelled_in_mid_copy_leaves_nothing(rig: Rig) -> None:
    vm = backed_up(rig)
    engine = RestoreEngine(rig.daemon.uri, rig.state)
    run = engine.begin(rig, vm.short_name, {"disks": {}}, max_bytes_per_second="64Ki")
    thread_end = []

    def cancel(moment: str, _run: RestoreRun) -> None:
        if moment == "after StartCopy":
            engine.ledger.wish = Wishes(cancel=True)

    engine.store.hook = cancel
    thread_end.append(engine.finish(run))
    assert thread_end[0].outcome is Outcome.CANCELLED
    assert left(rig) == []
    assert not [path for path in images(rig).rglob("*") if path.is_file()]


# -- in place -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_the_vms_own_disks_get_the_content_of_the_set(rig: Rig, keep: bool) -> None:
    vm = backed_up(rig)
    vm.stop()
    target = {"in_place": {"overwrite": True, "start": True, "keep_old_disks": keep}}
    run = restore(rig, vm.short_name, target)
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert vm.portrait().state == "running"
    assert holds(vm, vda=0x11, vdb=0x22)
    old = sorted(path.name.split(".before-restore.")[0] for path in rig.disks.rglob("*.before-restore.*"))
    assert old == (["a.qcow2", "b.raw"] if keep else [])


def test_a_running_vm_is_refused_and_untouched(rig: Rig) -> None:
    vm = backed_up(rig)
    before = vm.portrait()
    with pytest.raises(Refused) as refusal:
        restore(rig, vm.short_name, {"in_place": {"overwrite": True}})
    assert refusal.value.reason == Reason.VM_RUNNING
    assert vm.portrait() == before


@pytest.mark.parametrize("nth", [1, 2], ids=["first disk", "last disk"])
def test_a_vm_started_just_before_a_rename_keeps_its_old_disks_and_what_it_writes(rig: Rig, nth: int) -> None:
    """The agent has seen the VM off; QEMU has opened the image when its name is taken away."""
    vm = backed_up(rig)
    vm.stop()
    swaps, told = [], []

    def meddle(moment: str, run: RestoreRun) -> None:
        if moment == "before Swap":
            swaps.append(moment)
            if len(swaps) == nth:
                vm.start()
        if "was started while" in run.trouble and not told:
            told.append(run.trouble)
            vm.writes("vdb", MARK, MIB, 0x55)
            vm.stop()

    run = restore(rig, vm.short_name, {"in_place": {"overwrite": True, "start": True}}, hook=meddle)
    assert told
    assert (run.outcome, run.failure and run.failure.reason) == (Outcome.FAILED, Reason.VM_RUNNING)
    assert holds(vm, vda=0x77, vdb=0x55)
    assert left(rig) == []


def test_a_lost_image_is_made_again_in_place(rig: Rig) -> None:
    vm = backed_up(rig)
    vm.stop()
    vm.paths["vda"].unlink()
    run = restore(rig, vm.short_name, {"in_place": {"overwrite": True}})
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert holds(vm, vda=0x11, vdb=0x22)
    assert left(rig) == []


# -- at once --------------------------------------------------------------------------------------------------------


def test_an_instant_vm_runs_on_the_set_and_ends_on_its_own_disks(rig: Rig) -> None:
    vm = backed_up(rig)
    digests = {path: hashlib.sha256(path.read_bytes()).digest() for path in rig.location.rglob("vd?.*")}
    protected = []

    def look(moment: str, run: RestoreRun) -> None:
        if moment == "before StartPull":
            protected.append(list((rig.location / run.set_path).glob(".in-use.*")))

    run = restore(rig, vm.short_name, {"instant": {"name": "back"}}, hook=look)
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    second = of_restored(rig, run)
    assert second.portrait().state == "running"
    assert all(len(holders) == 1 for holders in protected)
    assert len(protected) == 2
    assert {len(chain) for chain in second.portrait().live.values()} == {1}
    assert holds(second, vda=0x11, vdb=0x22)
    assert left(rig) == []
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in digests} == digests
    assert {path.stat().st_uid for path in digests} == {0}
    shutil.rmtree(rig.location / run.set_path)
    second.stop()
    second.start()
    assert holds(second, vda=0x11, vdb=0x22)


def test_an_instant_vm_that_is_cancelled_is_gone(rig: Rig) -> None:
    vm = backed_up(rig)
    engine = RestoreEngine(rig.daemon.uri, rig.state)

    def cancel(moment: str, _run: RestoreRun) -> None:
        if moment == "in Pulling":
            engine.ledger.wish = Wishes(cancel=True)

    engine.ledger.hook = cancel
    run = engine.finish(engine.begin(rig, vm.short_name, {"instant": {"name": "back"}}, max_bytes_per_second="64Ki"))
    assert run.outcome is Outcome.CANCELLED
    assert not of_restored(rig, run).is_active()
    assert left(rig) == []
    assert vm.portrait().state == "running"
