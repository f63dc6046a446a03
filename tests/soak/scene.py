"""The parts of a soak: control plane, one node with libvirtd 9.0, controller, agent, VMs and locations."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from kubernetes import client, config

from integration.system.programs import Node, Stage
from soak.guests import MIB, NAMESPACE, Guest
from soak.places import Place
from testbed.boot import boot_files
from testbed.controlplane import ControlPlane
from testbed.errors import TestbedError
from testbed.guests import Boot, Disk, Options, wait_until_ready
from testbed.hypervisor import Libvirtd
from testbed.images import disk_image, overlay_image
from vmbackup.api import names

CRDS = Path(__file__).resolve().parents[2] / "crds"
SEQUENCE_REST_MICROSECONDS = 5000  # QEMU without KVM shares two cores with everything else
SMALL_BYTES = 512 * MIB
CALL_SECONDS = 5
Body = dict[str, Any]


@dataclass
class Scene:
    stage: Stage
    node: Node
    host: Libvirtd
    guests: dict[str, Guest]
    places: dict[str, Place]
    golden: Path
    api: client.CustomObjectsApi
    # Held by whoever has a program in hand; the others leave it alone.
    hands: dict[str, Lock] = field(default_factory=lambda: {"agent": Lock(), "controller": Lock()})

    @property
    def counter(self) -> Guest:
        """Return the VM whose guest really runs and counts."""
        return self.guests["counter"]

    def make_location(self, place: Place) -> None:
        spec = {
            "directory": {"path": str(place.path)},
            "allowedNamespaces": {"names": [NAMESPACE]},
            "minFree": place.min_free,
        }
        self.stage.cluster.apply(_body("VMBackupLocation", {"name": place.name}, spec))

    def order(self, name: str, spec: Body) -> Body:
        """Make a VMBackup. Raises client.ApiException or urllib3's errors while the API server is away."""
        body = _body("VMBackup", {"name": name, "namespace": NAMESPACE}, spec)
        made: Any = self.api.create_namespaced_custom_object(*_BACKUPS, body, _request_timeout=CALL_SECONDS)
        return dict(made)

    def cancel(self, name: str) -> None:
        change = {"spec": {"cancel": True}}
        self.api.patch_namespaced_custom_object(*_BACKUPS, name, change, _request_timeout=CALL_SECONDS)

    def delete(self, name: str) -> None:
        self.api.delete_namespaced_custom_object(*_BACKUPS, name, _request_timeout=CALL_SECONDS)

    def backups(self) -> list[Body]:
        """Raises as `order`."""
        listed: Any = self.api.list_namespaced_custom_object(*_BACKUPS, _request_timeout=CALL_SECONDS)
        return list(listed["items"])

    def overlays(self) -> list[Path]:
        """Return every overlay of ours on the node."""
        return sorted([*self.host.images.glob(".vmbackup.*"), *self.node.state.glob("overlays/.vmbackup.*")])

    def records(self) -> list[Path]:
        """Return what is in the node journal."""
        return sorted((self.node.state / "runs").glob("*"))

    def witness(self, directory: Path) -> None:
        """Write all that can be known now into a directory."""
        with suppress(Exception):  # the API server may be away
            (directory / "vmbackups.json").write_text(json.dumps(self.backups(), indent=1))
        for record in self.records():
            with suppress(OSError):
                (directory / record.name).write_bytes(record.read_bytes())
        for guest in self.guests.values():
            said = [_say(self.host, *words, guest.domain) for words in _LOOKS]
            (directory / f"{guest.name}.txt").write_text("\n".join(said))
        paths = [self.host.images, self.node.state, *(place.path.parent for place in self.places.values())]
        listed = _out("find", *map(str, paths), "-not", "-path", "*/lost+found*", "-ls")
        (directory / "files.txt").write_text(f"{listed}\n{_out('df')}")
        inspect = ["inspect", "--connect", self.host.uri, "--state", str(self.node.state)]
        (directory / "inspect.txt").write_text(_out(str(_PYTHON), "-m", "vmbackup", *inspect))
        for log in (self.stage.controller.log, self.node.agent.log):
            (directory / log.name).write_text("\n".join(log.read_text(errors="replace").splitlines()[-400:]))


_PYTHON = Path(__file__).resolve().parents[2] / ".venv/bin/python"
_BACKUPS = (names.GROUP, names.VERSION, NAMESPACE, "vmbackups")
_LOOKS = (
    ("domstate", "--reason"),
    ("domblklist",),
    ("domjobinfo",),
    ("snapshot-list",),
    ("dumpxml",),
    ("dumpxml", "--inactive"),
)


@contextmanager
def raised(directory: Path, work: Path) -> Iterator[Scene]:
    """Yield the scene with everything running. Logs go to `directory`, all else to `work`."""
    work.mkdir(parents=True)
    work.chmod(0o755)
    # Mounted first: QEMU sees what was there when it started.
    places = {"large": Place("large", work / "large" / "sets"), "small": Place.small("small", work, SMALL_BYTES)}
    with ControlPlane(work / "k8s") as cluster, Libvirtd("9.0", directory=work / "v") as host:
        cluster.apply(CRDS)
        stage = Stage(cluster, directory)
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        stage.controller.start()
        node = stage.add_node("node-1", host)
        golden = disk_image(host.images / "golden.qcow2", "qcow2", 128 * MIB, 64 * MIB)
        guests = {guest.name: guest for guest in _guests(host, golden)}
        scene = Scene(stage, node, host, guests, places, golden, _api(cluster))
        for place in places.values():
            scene.make_location(place)
        for guest in guests.values():
            guest.define()
            guest.start()
        boot = scene.counter.options.boot
        assert boot is not None
        wait_until_ready(boot.serial_log)
        try:
            yield scene
        finally:
            stage.stop()


def _guests(host: Libvirtd, golden: Path) -> Iterator[Guest]:
    kernel, initramfs = boot_files(host.images)
    a = disk_image(host.images / "counter-a.qcow2", "qcow2", 256 * MIB, 48 * MIB)
    b = disk_image(host.images / "counter-b.raw", "raw", 64 * MIB)
    arguments = f"testbed.ext4=vda testbed.sequence=vda,vdb,{SEQUENCE_REST_MICROSECONDS}"
    boot = Boot(kernel, initramfs, host.images / "counter.log", arguments)
    options = Options(memory_mib=160, agent=True, boot=boot)
    yield Guest("counter", host.uri, (Disk(a, "vda"), Disk(b, "vdb", "raw")), options, writes=False)
    one = disk_image(host.images / "plain-a.qcow2", "qcow2", 256 * MIB, 128 * MIB)
    two = disk_image(host.images / "plain-b.qcow2", "qcow2", 64 * MIB, 16 * MIB)
    yield Guest("plain", host.uri, (Disk(one, "vda"), Disk(two, "vdb")))
    yield Guest("raw", host.uri, (Disk(disk_image(host.images / "raw.raw", "raw", 128 * MIB, 64 * MIB), "vda", "raw"),))
    clone = overlay_image(host.images / "clone.qcow2", golden)
    yield Guest("clone", host.uri, (Disk(clone, "vda"),))


def _api(cluster: ControlPlane) -> client.CustomObjectsApi:
    settings = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=settings)
    settings.proxy = None  # the machine's proxy is not meant for 127.0.0.1
    settings.retries = False
    return client.CustomObjectsApi(client.ApiClient(settings))


def _body(kind: str, metadata: Body, spec: Body) -> Body:
    return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _say(host: Libvirtd, *words: str) -> str:
    try:
        said = host.run("timeout", "10", "virsh", *words)
    except TestbedError as error:
        said = str(error)
    return f"== virsh {' '.join(words)}\n{said}"


def _out(*command: str) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not answer"
    return said.stdout + said.stderr
