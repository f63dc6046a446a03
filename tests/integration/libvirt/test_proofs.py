"""A set is proved by booting an isolated copy of it, or by reading it again; nothing is left but the result."""

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest

from integration.libvirt.booted import booted
from integration.libvirt.machines import VM
from integration.libvirt.restores import RestoreEngine, images, process, restore
from integration.libvirt.rig import NAMESPACE, Rig
from testbed.boot import boot_files
from testbed.guests import Boot, Disk, Options, wait_until_ready
from vmbackup.api.conditions import Reason
from vmbackup.api.proof import ProofFile
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.units import MIB


def backed_up(rig: Rig, *, agent: bool = False) -> VM:
    vm = booted(rig, agent=agent)
    run = rig.run(vm, method="Push", verify="Checksum")
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    return vm


def networked(rig: Rig) -> VM:
    """Return a guest that boots and has a network interface, with a set."""
    kernel, initramfs = boot_files(rig.place)
    log = rig.disks / "serial.log"
    boot = Boot(kernel, initramfs, log, "testbed.ext4=vda")
    interface = "<interface type='user'><mac address='52:54:00:12:34:56'/></interface></devices>"
    vm = rig.vm(
        Disk(rig.image("system", data_mib=0), "vda"),
        options=Options(memory_mib=160, boot=boot),
        edit=lambda xml: xml.replace("</devices>", interface),
    )
    wait_until_ready(log)
    assert rig.run(vm, verify="Checksum").outcome is Outcome.SUCCEEDED
    return vm


def digests(rig: Rig) -> dict[str, bytes]:
    return {str(path): hashlib.sha256(path.read_bytes()).digest() for path in rig.location.rglob("vd?.*")}


def written(rig: Rig, run: RestoreRun) -> ProofFile:
    return ProofFile.model_validate_json((rig.location / run.set_path / "proof.json").read_bytes())


def assert_nothing_left(rig: Rig, run: RestoreRun) -> None:
    assert [path for path in images(rig).rglob("*") if path.is_file()] == []
    assert list((rig.location / run.set_path).glob(".in-use.*")) == []
    connection = libvirt.open(rig.daemon.uri)
    assert [domain.name() for domain in connection.listAllDomains() if "proof" in domain.name()] == []
    connection.close()


def test_a_guest_agent_proves_the_set(rig: Rig) -> None:
    vm = backed_up(rig, agent=True)
    before = digests(rig)
    run = restore(rig, vm.short_name, {"proof": {"boot_seconds": 200}})
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.proof is not None
    assert run.proof.heartbeat == "GuestAgent"
    found = written(rig, run)
    assert (found.succeeded, found.broken, found.heartbeat) == (True, False, "GuestAgent")
    assert digests(rig) == before
    assert vm.portrait().state == "running"
    assert_nothing_left(rig, run)


def test_a_pattern_on_the_console_proves_the_set_and_the_copy_has_no_network(rig: Rig) -> None:
    vm = networked(rig)
    seen: list[ET.Element] = []

    def look(moment: str, run: RestoreRun) -> None:
        if moment == "in Proving" and not seen:
            connection = libvirt.open(rig.daemon.uri)
            seen.append(ET.fromstring(connection.lookupByUUIDString(run.domain_uuid).XMLDesc()))  # noqa: S314 - ours
            connection.close()

    target = {"proof": {"serial_pattern": "READY", "boot_seconds": 200, "max_memory": "128Mi"}}
    run = restore(rig, vm.short_name, target, hook=look)
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.proof is not None
    assert run.proof.heartbeat == "SerialPattern"
    assert "READY" in run.proof.evidence
    (domain,) = seen
    assert domain.findall("devices/interface") == []
    assert domain.findtext("memory") == str(128 * 1024)
    assert_nothing_left(rig, run)


def test_without_agent_and_pattern_the_disk_counts(rig: Rig) -> None:
    vm = networked(rig)
    run = restore(rig, vm.short_name, {"proof": {"alive_seconds": 5, "boot_seconds": 100}})
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.proof is not None
    assert run.proof.heartbeat == "DiskActivity"


def test_a_guest_that_does_not_come_up_is_told(rig: Rig) -> None:
    vm = rig.vm()
    assert rig.run(vm).outcome is Outcome.SUCCEEDED
    run = restore(rig, vm.short_name, {"proof": {"serial_pattern": "never", "boot_seconds": 5}})
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason is Reason.NO_HEARTBEAT
    found = written(rig, run)
    assert (found.succeeded, found.broken) == (False, False)
    assert "no sign of life" in found.message
    assert_nothing_left(rig, run)


def test_a_scrub_reads_everything_and_boots_nothing(rig: Rig) -> None:
    vm = rig.vm()
    assert rig.run(vm, verify="Checksum").outcome is Outcome.SUCCEEDED
    run = restore(rig, vm.short_name, {"proof": {"kind": "Scrub"}})
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert written(rig, run).verified == "Checksum"
    assert_nothing_left(rig, run)


def test_a_scrub_finds_a_flipped_byte_and_the_set_says_so(rig: Rig) -> None:
    vm = rig.vm()
    assert rig.run(vm, verify="Checksum").outcome is Outcome.SUCCEEDED
    flip(next(rig.location.rglob("vda.qcow2")))
    run = restore(rig, vm.short_name, {"proof": {"kind": "Scrub"}})
    assert run.outcome is Outcome.FAILED
    found = written(rig, run)
    assert (found.succeeded, found.broken) == (False, True)
    assert "SHA-256" in found.message
    assert_nothing_left(rig, run)


def flip(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(-MIB, 2)
        byte = file.read(1)[0]
        file.seek(-MIB, 2)
        file.write(bytes([byte ^ 0xFF]))


@pytest.mark.parametrize(
    "death", ["after Prepare", "after StartDomain", "in Proving", "after WriteProof", "after RemoveDomain"]
)
def test_agent_killed_during_a_proof(rig: Rig, death: str) -> None:
    vm = networked(rig)
    engine = RestoreEngine(rig.daemon.uri, rig.state)
    engine.begin(rig, vm.short_name, {"proof": {"serial_pattern": "READY", "boot_seconds": 200}})
    assert process(rig, death).wait(250) == -9, (rig.place / "restore.log").read_text()
    assert process(rig).wait(250) == 0, (rig.place / "restore.log").read_text()
    (run,) = engine.journal.runs()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert_nothing_left(rig, run)
    assert written(rig, run).succeeded


def test_proof_names_are_of_the_namespace(rig: Rig) -> None:
    """A copy that an agent has lost is still to be told from others' VMs."""
    vm = rig.vm()
    assert rig.run(vm).outcome is Outcome.SUCCEEDED
    engine = RestoreEngine(rig.daemon.uri, rig.state)
    run = engine.begin(rig, vm.short_name, {"proof": {}})
    assert run.domain == f"{NAMESPACE}_proof-{run.uid[:8]}"
