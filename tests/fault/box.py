"""The VM that is restored: off, two small disks and no system. It has changed since its backup."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import libvirt

from fault.machine import NAMESPACE, digest, scattered_image
from fault.stage import PLAIN, Stage
from integration.libvirt.machines import wait_until
from testbed.guests import Disk, domain_xml
from vmbackup.api import names
from vmbackup.cluster.resources import VMBACKUP
from vmbackup.units import MIB

SHORT_NAME = "box"
NAME, RESTORED = f"{NAMESPACE}_{SHORT_NAME}", f"{NAMESPACE}_back"
QCOW2_MIB, RAW_MIB = 24, 8
UNDEFINE = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
T = TypeVar("T")


class Box:
    """`disks`: its images, in the file system of the images that are restored. `kept`: the same, for ever."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.disks, self.kept = stage.images / SHORT_NAME, stage.place / "box-kept"
        self.set: Path

    def build(self) -> None:
        """Make it, back it up, and change it."""
        self.disks.mkdir(mode=0o755)
        vda = scattered_image(self.disks / "vda.qcow2", "qcow2", QCOW2_MIB * MIB)
        vdb = scattered_image(self.disks / "vdb.raw", "raw", RAW_MIB * MIB)
        xml = domain_xml(NAME, [Disk(vda, "vda"), Disk(vdb, "vdb", "raw")])
        self._virsh(lambda connection: str(connection.defineXML(xml).UUIDString()))
        self.set = self.back_up("first")
        self.stage.old_set |= {str(file): digest(file) for file in self.set.iterdir()}
        for image, format_ in ((vda, "qcow2"), (vdb, "raw")):
            write = f"write -P 0x5a 0 {MIB}"
            subprocess.run(["qemu-io", "-f", format_, "-c", write, str(image)], check=True, capture_output=True)
        shutil.copytree(self.disks, self.kept)

    def back_up(self, name: str, **spec: object) -> Path:
        """Return the set of a new VMBackup. The VM is started for it, and off again afterwards."""
        self.start()
        wait_until(self._is_told, "the VMHost shows that the VM runs")
        full = {"source": {"name": SHORT_NAME}, "location": PLAIN, "verify": "Checksum", **spec}
        metadata = {"name": name, "namespace": NAMESPACE}
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackup", "metadata": metadata, "spec": full}
        self.stage.client.create(VMBACKUP.collection(NAMESPACE), body)

        def over() -> dict[str, object]:
            status = self.stage.resources.get(VMBACKUP, name, NAMESPACE).get("status", {})
            return dict(status) if status.get("phase") == "Done" else {}

        status = wait_until(over, f"the VMBackup {name} is over")
        assert status["outcome"] == "Succeeded", status
        self.stop()
        return self.stage.directory(PLAIN) / str(status["set"])

    def _is_told(self) -> bool:
        return SHORT_NAME in self.stage.running_vms()

    def start(self) -> None:
        self._virsh(lambda connection: connection.lookupByName(NAME).create())

    def stop(self) -> None:
        self._virsh(lambda connection: connection.lookupByName(NAME).destroy())

    def domains(self) -> dict[str, str]:
        """Return the definitions of all domains by name, transient ones too."""
        flag = libvirt.VIR_DOMAIN_XML_INACTIVE
        return self._virsh(lambda connection: {one.name(): one.XMLDesc(flag) for one in connection.listAllDomains()})

    def runs(self, domain: str) -> bool:
        """Return whether a domain runs; False when there is none."""
        running = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        return domain in self._virsh(lambda connection: [one.name() for one in connection.listAllDomains(running)])

    def is_defined(self, domain: str) -> bool:
        flag = libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT
        return domain in self._virsh(lambda connection: [one.name() for one in connection.listAllDomains(flag)])

    def kill_restored(self, *, unseen: bool = False) -> None:
        """Kill the QEMU of the restored VM; unseen: libvirtd is killed first, so that it has no say."""
        uuid = self._virsh(lambda connection: connection.lookupByName(RESTORED).UUIDString())
        pid = self.stage.host.qemu_pid(uuid)
        assert pid is not None, "the restored VM does not run"
        if unseen:
            self.stage.kill_daemon()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.stage.host.qemu_pid(uuid) is None, "QEMU is dead")

    def files(self) -> dict[str, str]:
        """Return the digests of all files of the images' file system, by path."""
        return {str(path): digest(path) for path in self.stage.images.rglob("*") if path.is_file()}

    def make_whole(self) -> None:
        """Bring back the VM, off and on its disks; what was restored goes."""
        for name in (NAME, RESTORED):
            with suppress(libvirt.libvirtError):
                self._virsh(lambda connection, name=name: connection.lookupByName(name).destroy())
        with suppress(libvirt.libvirtError):
            self._virsh(lambda connection: connection.lookupByName(RESTORED).undefineFlags(UNDEFINE))
        for path in self.stage.images.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.kept, self.disks)

    def _virsh(self, what: Callable[[libvirt.virConnect], T]) -> T:
        connection = libvirt.open(self.stage.host.uri)
        try:
            return what(connection)
        finally:
            connection.close()
