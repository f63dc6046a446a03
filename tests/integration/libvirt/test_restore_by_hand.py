"""The way without us: the commands of docs/restore.md, run as they stand there."""

import os
import re
import subprocess
from pathlib import Path

from integration.libvirt.machines import VM
from integration.libvirt.rig import NAMESPACE, Rig
from testbed.guests import Disk
from unit.documents import ROOT, fences, sections
from vmbackup.api.vmbackup import Outcome
from vmbackup.units import MIB

MARK = 16 * MIB


def scripts() -> list[str]:
    """Return the shell blocks of the section: first the variables, then check, second VM, at once, in place."""
    text = sections((ROOT / "docs/restore.md").read_text())["Without us"]
    return [fence.text for fence in fences(text) if fence.language == "sh"]


def run(rig: Rig, script: str, variables: dict[str, str]) -> None:
    """Run a block as a user would who has set the variables to what is theirs."""
    lines = "\n".join(f"{name}='{value}'" for name, value in variables.items())
    environment = {**os.environ, "LIBVIRT_DEFAULT_URI": rig.daemon.uri}
    result = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", f"{lines}\n{script}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"


def test_the_commands_of_the_document_bring_a_vm_back(rig: Rig) -> None:
    assigned, check, second, at_once, in_place = scripts()
    names = re.findall(r"^(\w+)=", assigned, re.MULTILINE)
    assert names == ["set", "images", "old", "new"]
    old, new = f"{NAMESPACE}_web{rig.number}", f"{NAMESPACE}_web{rig.number}-restored"
    image = rig.image(f"{old}-vda")
    vm = rig.vm(Disk(image), edit=lambda xml: re.sub("<name>.*?</name>", f"<name>{old}</name>", xml))
    vm.name = old
    vm.writes("vda", MARK, MIB, 0x11)
    done = rig.run(vm, verify="Checksum")
    assert done.outcome is Outcome.SUCCEEDED, done.failure
    vm.writes("vda", MARK, MIB, 0x77)
    variables = {"set": str(rig.location / done.set_path), "images": str(rig.disks), "old": old, "new": new}
    run(rig, check, variables)
    try:
        run(rig, second, variables)
        restored = VM(rig.daemon, new, uuid_of(rig, new), rig.disks, {"vda": rig.disks / f"{new}-vda.qcow2"})
        rig.vms.append(restored)
        assert restored.portrait().state == "running"
        assert restored.uuid != vm.uuid
        assert restored.holds("vda", MARK, 0x11)
        assert vm.holds("vda", MARK, 0x77)
        run(rig, at_once, variables)
        assert [len(chain) for chain in restored.portrait().live.values()] == [1]
        assert restored.holds("vda", MARK, 0x11)
        run(rig, in_place, variables)
        assert vm.portrait().state == "running"
        assert vm.holds("vda", MARK, 0x11)
    finally:
        for path in Path(variables["set"]).iterdir():
            os.chown(path, 0, 0)  # libvirt gave the set's image to QEMU's user


def uuid_of(rig: Rig, name: str) -> str:
    return rig.daemon.run("virsh", "domuuid", name).strip()
