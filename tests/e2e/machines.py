"""VMs of a node's own libvirt daemon, and backups of them."""

import json
from pathlib import Path
from typing import Any

import libvirt

from e2e.installation import Installation
from e2e.pushed import Pushed
from integration.system.backup import Backup, eventually
from testbed import proof
from testbed.boot import boot_files
from testbed.guests import Boot, Disk, Options, domain_xml, start_guest, wait_until_ready
from testbed.images import disk_image, sequence_numbers
from testbed.node import Node

MIB = 1 << 20
IMAGES = Path("/var/lib/libvirt/images")  # on the node
LOCATION_DIRECTORY = "/srv/vmbackup"
BACKUP_SECONDS = 180
HELD_BYTES = 1 << 30  # of data, at least, so that a speed limit bites before QEMU has copied all of it


class Machine(Pushed):
    """A running VM of a node."""

    def __init__(self, node: Node, domain: str) -> None:
        self.node, self.domain, self.uri = node, domain, node.host.uri
        self.namespace, _, self.name = domain.partition("_")
        self.sources = proof.sources(self.uri, domain)  # as the node calls them

    def outside(self) -> dict[str, str]:
        """Return its disks as they are seen from outside the node."""
        return {target: str(self.node.outside(path)) for target, path in self.sources.items()}

    def number(self) -> int:
        """Return the last number that a booted VM has written to its first disk."""
        disks = self.outside()
        return sequence_numbers(Path(disks["vda"]), Path(disks["vdb"]))[0]

    def now(self) -> dict[str, str]:
        """Return what its disks are on at this moment, as the node calls it."""
        return proof.sources(self.uri, self.domain)

    def remove(self) -> None:
        connection = libvirt.open(self.uri)
        try:
            found = connection.lookupByName(self.domain)
            found.destroy()
            found.undefine()
        finally:
            connection.close()
        for path in self.outside().values():
            Path(path).unlink()


def idle_machine(node: Node, domain: str, data_bytes: int = 64 * MIB) -> Machine:
    """Start a VM that writes nothing, with one disk of data."""
    image = node.images / f"{domain}.qcow2"
    disk_image(image, "qcow2", 5 * data_bytes // 4, data_bytes)
    start_guest(node.host.uri, domain_xml(domain, [Disk(IMAGES / image.name)]))
    return Machine(node, domain)


def booted_machine(node: Node, domain: str) -> Machine:
    """Boot a VM whose guest writes a rising number to its two disks, and wait until it does."""
    boot_files(node.images)
    log = f"{domain}.log"
    arguments = "testbed.ext4=vda testbed.sequence=vda,vdb,20000"
    boot = Boot(IMAGES / "vmlinuz", IMAGES / "initramfs", IMAGES / log, arguments)
    disks = []
    for target, kind in (("vda", "qcow2"), ("vdb", "raw")):
        image = node.images / f"{domain}.{target}.{kind}"
        disk_image(image, kind, 256 * MIB)
        disks.append(Disk(IMAGES / image.name, target, kind))
    start_guest(node.host.uri, domain_xml(domain, disks, Options(memory_mib=160, agent=True, boot=boot)))
    wait_until_ready(node.images / log)
    return Machine(node, domain)


class Backups:
    """Backups of VMs in one namespace, asked for with kubectl."""

    def __init__(self, installation: Installation, namespace: str, location: str) -> None:
        self.installation, self.namespace, self.location = installation, namespace, location
        self._asked: list[str] = []

    def ask(self, name: str, machine: Machine, **spec: Any) -> None:
        """Ask for a backup of a VM of the node's own daemon."""
        self.ask_for(name, {"name": machine.name}, **spec)

    def ask_for(self, name: str, source: dict[str, str], **spec: Any) -> None:
        """Ask for a backup of what `source` names."""
        head = {"apiVersion": "vmbackup.dev/v1alpha1", "kind": "VMBackup"}
        metadata = {"name": name, "namespace": self.namespace}
        body = {"source": source, "location": self.location, **spec}
        self.installation.plane.apply(head | {"metadata": metadata, "spec": body})
        self._asked.append(name)

    def get(self, name: str) -> Backup:
        return Backup(
            json.loads(self.installation.plane.kubectl("-n", self.namespace, "get", "vmb", name, "-o", "json"))
        )

    def until_copying(self, name: str) -> Backup:
        """Return the backup when it copies and has copied something."""
        found: list[Backup] = []

        def copies() -> bool:
            found.append(self.get(name))
            assert not found[-1].over, f"too fast to be caught on the way, or over: {found[-1].status}"
            return found[-1].phase == "Copying" and found[-1].bytes_done > 0

        eventually(copies, f"{name} is Copying", BACKUP_SECONDS)
        return found[-1]

    def until_held(self, name: str, machine: Pushed) -> Backup:
        """Return the push backup when the speed limit that it asks for is in force."""
        eventually(lambda: machine.bandwidth() > 0 or self.get(name).over, f"{name} is held", BACKUP_SECONDS)
        return self.until_copying(name)

    def until_succeeded(self, name: str, hastened: Pushed | None = None) -> Backup:
        """Return the backup when it has succeeded. `hastened`: the VM whose jobs are freed of their speed limit."""

        def over() -> bool:
            if hastened:
                hastened.hasten()
            return self.get(name).over

        eventually(over, f"{name} is over", BACKUP_SECONDS)
        backup = self.get(name)
        assert backup.outcome == "Succeeded", f"{backup.status}\n{self.installation.last_words()}"
        return backup

    def settle(self) -> None:
        """Cancel what is not over yet and wait for its end: nobody uninstalls the operator under a backup."""
        for name in self._asked:
            if not self.get(name).over:
                cancel = json.dumps({"spec": {"cancel": True}})
                self.installation.plane.kubectl(
                    "-n", self.namespace, "patch", "vmb", name, "--type=merge", "-p", cancel
                )
        for name in self._asked:
            eventually(lambda name=name: self.get(name).over, f"{name} is over", BACKUP_SECONDS)
        self._asked.clear()

    def read_set(self, backup: Backup, node: Node) -> proof.Set:
        """Return the published set, from the node that it was written on."""
        return proof.Set.read(node.outside(LOCATION_DIRECTORY) / backup.status["set"])


def assert_identical(backup: proof.Set, machine: Machine) -> None:
    """The set of an idle VM is what its disks are, its digests hold, and the VM is home."""
    findings = [
        *proof.identical(backup, machine.outside()),
        proof.home(machine.uri, machine.domain, machine.sources),
    ]
    if (backup.directory / "SHA256SUMS").exists():
        findings.append(proof.checksums(backup))
    assert all(finding.good for finding in findings), findings


def assert_one_point_in_time(backup: proof.Set, machine: Machine, before: int) -> None:
    """The set of a booted VM is of one moment between `before` and now, with a whole file system; the VM is home."""
    findings = [
        proof.one_point_in_time(backup, before, machine.number()),
        proof.clean_file_system(backup, "vda"),
        proof.home(machine.uri, machine.domain, machine.sources),
    ]
    assert all(finding.good for finding in findings), findings
