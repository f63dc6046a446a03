"""Records domain XML of real libvirt daemons for the unit tests: python tests/data/record.py [RELEASE ...].

Writes tests/data/libvirt-<release>/: the same VM idle, in a push backup, on overlays, while its overlay is committed,
when that is ready, and home again; `*.inactive.xml` is its persistent definition at that time.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "dev")]

import libvirt  # noqa: E402

from contract.qmp import Qmp, with_monitor  # noqa: E402
from testbed.guests import Disk, Options, domain_xml, start_guest, write_pattern  # noqa: E402
from testbed.hypervisor import RELEASES, Libvirtd  # noqa: E402
from testbed.images import disk_image, overlay_image  # noqa: E402
from vmbackup.hypervisor.domain_xml import read_domain  # noqa: E402
from vmbackup.hypervisor.perform import COMMIT_FLAGS, SNAPSHOT_FLAGS  # noqa: E402
from vmbackup.hypervisor.request_xml import backup_xml, snapshot_xml  # noqa: E402
from vmbackup.units import MIB  # noqa: E402

UUID = "5a6b7c8d-0000-4000-8000-000000000001"
NAME = "team-a_recorded"
OWNER = '<vmbackup:owner xmlns:vmbackup="https://vmbackup.dev/domain/1" namespace="team-a"/>'
NETWORK_DISK = """<disk type='network' device='disk'><driver name='qemu' type='raw'/>
<source protocol='nbd' name='export'><host transport='unix' socket='{socket}'/></source>
<target dev='vde' bus='virtio'/></disk>"""


class Recorder:
    def __init__(self, daemon: Libvirtd) -> None:
        self.daemon = daemon
        self.out = HERE / f"libvirt-{daemon.release}"
        self.out.mkdir(exist_ok=True)
        self.domain = libvirt.open(daemon.uri).lookupByName(NAME)

    def write(self, name: str, xml: str) -> None:
        (self.out / f"{name}.xml").write_text(xml.replace(str(self.daemon.directory), "/srv/vm").strip() + "\n")

    def live(self, name: str) -> None:
        self.write(name, self.domain.XMLDesc(0))

    def both(self, name: str) -> None:
        self.live(name)
        self.write(f"{name}.inactive", self.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def record(release: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="vmb-", dir="/var/tmp") as directory,
        Libvirtd(release, directory=Path(directory)) as daemon,
        network_disk(daemon.images) as socket,
    ):
        images = daemon.images
        work = images / "work"
        work.mkdir()
        work.chmod(0o777)
        golden = disk_image(images / "golden.qcow2", "qcow2", 64 * MIB, 4 * MIB)
        disks = [
            Disk(overlay_image(images / "vda.qcow2", golden), "vda"),
            Disk(disk_image(images / "vdb.raw", "raw", 256 * MIB, 256 * MIB), "vdb", "raw"),
            Disk(disk_image(images / "vdc.qcow2", "qcow2", 64 * MIB), "vdc", read_only=True),
            Disk(disk_image(images / "vdd.raw", "raw", 64 * MIB), "vdd", "raw", shareable=True),
            Disk(disk_image(images / "cd.raw", "raw", 4 * MIB), "sda", "raw", device="cdrom"),
            Disk(None, "sdb", "raw", device="cdrom"),
        ]
        options = Options(32, UUID, OWNER, agent=True, devices=(NETWORK_DISK.format(socket=socket),))
        monitor = work / "qmp"
        start_guest(daemon.uri, with_monitor(domain_xml(NAME, disks, options), monitor))
        play(Recorder(daemon), work, monitor)


def play(recorder: Recorder, work: Path, monitor: Path) -> None:
    domain = recorder.domain
    recorder.both("00-idle")
    disks = read_domain(domain.XMLDesc(0)).disks
    if recorder.daemon.release != "7.0":
        targets = {target: f"{work}/{target}.qcow2" for target in ("vda", "vdb")}
        with Qmp(monitor) as qemu, qemu.slowing():
            domain.backupBegin(backup_xml(disks, targets), None, 0)
        recorder.live("01-push")
        recorder.write("01-push.backup", domain.backupGetXMLDesc())
        domain.abortJob()
        wait(lambda: domain.jobStats()["type"] == libvirt.VIR_DOMAIN_JOB_NONE)
    overlays = {target: f"{work}/.vmbackup.{UUID}.1.{target}.overlay" for target in ("vda", "vdb")}
    domain.snapshotCreateXML(snapshot_xml(disks, overlays), SNAPSHOT_FLAGS)
    recorder.both("02-overlay")
    write_pattern(recorder.daemon.uri, NAME, "vda", 0, 32 * MIB)
    base = disks[0].source
    with Qmp(monitor) as qemu:
        with qemu.slowing():
            domain.blockCommit("vda", base, None, 0, COMMIT_FLAGS)
        recorder.live("03-commit")
        qemu.limit_jobs(0)
    wait(lambda: "ready='yes'" in domain.XMLDesc(0))
    recorder.live("04-ready")
    domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    recorder.both("05-vda-home")
    copy = f"<disk type='file'><driver type='qcow2'/><source file='{work}/copy.qcow2'/></disk>"
    domain.blockCopy("vda", copy, None, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    wait(lambda: "ready='yes'" in domain.XMLDesc(0))
    recorder.live("06-foreign-copy")


def wait(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def network_disk(images: Path) -> Iterator[Path]:
    """Serve an image over NBD."""
    images.mkdir(parents=True, exist_ok=True)
    image, socket = disk_image(images / "network.raw", "raw", 16 * MIB), images / "nbd"
    command = ["qemu-nbd", "-t", "-f", "raw", "-x", "export", "-k", str(socket), str(image)]
    server = subprocess.Popen(command)
    try:
        wait(socket.exists)
        socket.chmod(0o777)
        yield socket
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    for wanted in sys.argv[1:] or RELEASES:
        record(wanted)
