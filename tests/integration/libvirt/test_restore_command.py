"""`vmbackup-operator restore`: a set comes back with one command, when there is no cluster."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import libvirt
import yaml

from integration.libvirt.machines import VM
from integration.libvirt.restores import images
from integration.libvirt.rig import NAMESPACE, Rig
from vmbackup.api.vmbackup import Outcome
from vmbackup.units import MIB

MARK = 16 * MIB


def call(rig: Rig, target: dict[str, Any], source: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    body = {
        "apiVersion": "vmbackup.dev/v1alpha1",
        "kind": "VMRestore",
        "metadata": {"name": "back", "namespace": NAMESPACE},
        "spec": {"source": source, "target": target},
    }
    request = rig.place / "restore.yaml"
    request.write_text(yaml.safe_dump(body))
    command = [sys.executable, "-m", "vmbackup", "restore", "-f", str(request), "--location", str(rig.location)]
    command += ["--images", str(images(rig)), "--state", str(rig.place / "alone"), "--min-free", "1Mi"]
    environment = {**os.environ, "LIBVIRT_DEFAULT_URI": rig.daemon.uri}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def backed_up(rig: Rig) -> VM:
    vm = rig.vm()
    vm.writes("vda", MARK, MIB, 0x11)
    assert rig.run(vm, verify="Checksum").outcome is Outcome.SUCCEEDED
    return vm


def remove(rig: Rig, name: str) -> None:
    connection = libvirt.open(rig.daemon.uri)
    domain = connection.lookupByName(name)
    domain.destroy()
    domain.undefine()
    connection.close()


def test_an_instant_vm_by_the_name_of_its_backup(rig: Rig) -> None:
    vm = backed_up(rig)
    ended = call(rig, {"instant": {"name": "back"}}, {"backup": "backup"})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Succeeded" in ended.stdout
    path = Path(ended.stdout.split("vda: ")[1].split()[0])
    second = VM(rig.daemon, f"{NAMESPACE}_back", vm.uuid, images(rig), {"vda": path})
    assert second.holds("vda", MARK, 0x11)
    status = yaml.safe_load((rig.place / f"alone/status/restore-{NAMESPACE}-back.yaml").read_text())["status"]
    assert status["outcome"] == "Succeeded"
    remove(rig, f"{NAMESPACE}_back")


def test_what_is_refused_has_code_2_and_says_why(rig: Rig) -> None:
    vm = backed_up(rig)
    source = {"set": {"location": "here", "vm": vm.short_name}}
    running = call(rig, {"inPlace": {"overwrite": True}}, source)
    assert (running.returncode, "Shut it down" in running.stdout) == (2, True)
    none = call(rig, {"disks": {}}, {"set": {"location": "here", "vm": "nobody"}})
    assert (none.returncode, "no published set" in none.stdout) == (2, True)
    bad = call(rig, {"disks": {}, "newDomain": {"name": "x"}}, source)
    assert (bad.returncode, "one target" in bad.stdout) == (2, True)
    assert vm.portrait().state == "running"
