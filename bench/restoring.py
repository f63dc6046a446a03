"""Ways back: our restore of an image beside `qemu-img convert`, and a VM that runs at once from its set."""

import contextlib
import json
import shutil
import time
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import libvirt
from sides import VERSION, Engine, write_request
from stage import LOCATION, NAMESPACE, SIDE_SECONDS, VM, Stage, kubectl, output, run

from testbed.controlplane import ControlPlane
from testbed.guests import Disk, domain_xml, start_guest
from testbed.images import disk_image
from vmbackup.api.restore import VMRestore
from vmbackup.api.vmbackup import Outcome
from vmbackup.standalone_restore import Settings, StandaloneRestore
from vmbackup.store.request_files import read_document

POLL_SECONDS = 0.01
IMAGE = "vda.qcow2"


class Kept:
    """A set of the VM that no sample removes. `image`: its image of the VM's disk."""

    def __init__(self, stage: Stage) -> None:
        self.location = stage.state / "kept"
        stage.prepare()
        Engine(stage, "Push")()
        shutil.move(stage.sets, self.location)
        stage.sets.mkdir()
        (self.image,) = self.location.glob(f"*/*/*/{IMAGE}")


class Restore:
    """Our restore of the set's disk into a qcow2 file, in this process, checks of set and image included."""

    def __init__(self, stage: Stage, kept: Kept) -> None:
        self._stage, self._kept = stage, kept

    def __call__(self) -> None:
        stage = self._stage
        request = stage.state / "restore.json"
        source = {"set": {"location": LOCATION, "vm": VM}}
        write_restore(request, "bench", {"source": source, "target": {"disks": {"format": "QCOW2"}}})
        settings = Settings(
            request=request,
            location=self._kept.location,
            images=stage.restored,
            connect=stage.uri,
            state=stage.state / "standalone",
            min_free="1%",
        )
        restore = StandaloneRestore(settings, read_document(request, VMRestore), lambda _key, _status: None)
        outcome = restore.run()
        if outcome is not Outcome.SUCCEEDED:
            raise RuntimeError(f"the restore ended as {outcome}: {restore.status.conditions}")


class Convert:
    """`qemu-img convert` of the set's image, and fsync of what it wrote."""

    def __init__(self, stage: Stage, kept: Kept) -> None:
        self._stage, self._kept = stage, kept

    def __call__(self) -> None:
        image = self._stage.work / IMAGE
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", str(self._kept.image), str(image)])
        run(["sync", str(image)])


class Instant:
    """A VM of a given size, its backup, and the time from `kubectl apply` of an instant restore to a VM that runs."""

    def __init__(self, stage: Stage, cluster: ControlPlane, vm: str, virtual_bytes: int, data_bytes: int) -> None:
        self._stage, self._cluster, self._vm = stage, cluster, vm
        self._numbers = count()
        self._request = stage.state / f"{vm}.json"
        disk = disk_image(stage.host.images / f"{vm}.qcow2", "qcow2", virtual_bytes, data_bytes)
        start_guest(stage.uri, domain_xml(f"{NAMESPACE}_{vm}", [Disk(disk)]))
        self._apply(write_request(self._request, vm, "Push", vm))
        self._until_done("vmb", vm)

    def seconds(self) -> float:
        """Restore once and return the time until libvirt shows the new VM running; then let it end, and remove it."""
        name = f"{self._vm}-{next(self._numbers)}"
        target = {"instant": {"name": name}}
        write_restore(self._request, name, {"source": {"backup": self._vm}, "target": target})
        connection = libvirt.open(self._stage.uri)
        try:
            begun = time.perf_counter()
            self._apply(self._request)
            domain = _running(connection, f"{NAMESPACE}_{name}")
            taken = time.perf_counter() - begun
            self._until_done("vmr", name)
            _remove(domain)
        finally:
            connection.close()
        return taken

    def _apply(self, request: Path) -> None:
        run(kubectl(self._cluster, "apply", "-f", str(request)))

    def _until_done(self, kind: str, name: str) -> None:
        done = f"--timeout={SIDE_SECONDS}s"
        run(kubectl(self._cluster, "-n", NAMESPACE, "wait", "--for=jsonpath={.status.phase}=Done", done, kind, name))
        outcome = output(kubectl(self._cluster, "-n", NAMESPACE, "get", kind, name, "-o=jsonpath={.status.outcome}"))
        if outcome != "Succeeded":
            raise RuntimeError(f"{kind} {name} ended as {outcome}")


def write_restore(path: Path, name: str, spec: dict[str, object]) -> None:
    """Write a VMRestore."""
    metadata = {"name": name, "namespace": NAMESPACE}
    path.write_text(json.dumps({"apiVersion": VERSION, "kind": "VMRestore", "metadata": metadata, "spec": spec}))


def _remove(domain: libvirt.virDomain) -> None:
    """Destroy it, with its images: else the disk fills, and the next restore is refused."""
    described = ElementTree.fromstring(domain.XMLDesc())  # noqa: S314 - our own XML
    images = [Path(source.attrib["file"]) for source in described.findall("devices/disk/source")]
    domain.destroy()
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    for directory in {image.parent for image in images}:
        shutil.rmtree(directory)


def _running(connection: libvirt.virConnect, name: str) -> libvirt.virDomain:
    """Return the domain as soon as it runs. Raises RuntimeError when it does not."""
    deadline = time.monotonic() + SIDE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(libvirt.libvirtError):
            domain = connection.lookupByName(name)
            if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                return domain
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"{name} does not run")
