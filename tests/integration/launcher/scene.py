"""One test's place on a launcher pod: its VM, its location, its journal, and what must hold at the end."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import libvirt

from integration.launcher.engine import PodEngine
from integration.launcher.pod import QEMU_USER, VMI_DISKS, LauncherPod
from integration.libvirt.backup import RUN_SECONDS, Backup
from integration.libvirt.engine import Hook, no_hook
from integration.libvirt.machines import SLOW_BYTES_PER_SECOND, ask_qemu
from testbed.guests import Disk, Options, domain_xml
from testbed.images import disk_image
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Phase, VMBackupSpec
from vmbackup.core.plan import Request
from vmbackup.hypervisor.launcher import launcher
from vmbackup.store.journal import NodeJournal
from vmbackup.units import MIB

NAMESPACE = "team-a"
VMI = "web"
DOMAIN = f"{NAMESPACE}_{VMI}"
OLD_SET = "team-a/web/20260101T000000Z-old-00000000"
TESTS = Path(__file__).resolve().parents[2]


class Scene:
    """The location holds an older set, which no pod may see and nobody may harm."""

    def __init__(self, pod: LauncherPod, place: Path) -> None:
        self.pod, self.place = pod, place
        self.location, self.state = place / "location", place / "state"
        for directory in (self.location, self.state, self.location / OLD_SET):
            directory.mkdir(parents=True)
        (self.location / OLD_SET / "vda.qcow2").write_text("an older backup")
        self.domain = DOMAIN
        self._processes: list[subprocess.Popen[bytes]] = []
        self._backups: list[Backup] = []

    # -- the VM -------------------------------------------------------------------------------------------------

    def start_vm(self, *, mib: int = 64, data_mib: int = 8, name: str = DOMAIN) -> Path:
        """Start a VM in the pod, with one qcow2 disk; return the image as the host sees it."""
        self.domain = name
        image = disk_image(self.pod.disks / f"{name}.qcow2", "qcow2", mib * MIB, data_mib * MIB)
        if self.pod.session:
            os.chown(image, QEMU_USER, QEMU_USER)
        xml = domain_xml(name, [Disk(Path(VMI_DISKS) / image.name)], Options(memory_mib=32))
        connection = self.pod.connect()
        try:
            connection.defineXML(xml).create()
        finally:
            connection.close()
        return image

    def slow_down(self, bytes_per_second: int = SLOW_BYTES_PER_SECOND) -> None:
        """Hold the running push job; 0 lets it go."""
        connection = self.pod.connect()
        try:
            self._limit(connection, bytes_per_second)
        finally:
            connection.close()

    def _limit(self, connection: libvirt.virConnect, bytes_per_second: int) -> None:
        domain = connection.lookupByName(self.domain)
        for job in ask_qemu(domain, "query-block-jobs"):
            ask_qemu(domain, "block-job-set-speed", device=job["device"], speed=bytes_per_second)

    def job_runs(self) -> bool:
        connection = self.pod.connect()
        try:
            return bool(connection.lookupByName(self.domain).jobStats()["type"] != libvirt.VIR_DOMAIN_JOB_NONE)
        finally:
            connection.close()

    # -- backups ------------------------------------------------------------------------------------------------

    def request(self, **spec: Any) -> Request:
        body = {"source": {"kind": "VirtualMachineInstance", "name": VMI}, "location": "local", **spec}
        return Request(
            uid=str(uuid.uuid4()),
            namespace=NAMESPACE,
            name="backup",
            spec=VMBackupSpec.model_validate(body),
            domain=DOMAIN,
            location_path=str(self.location),
            overlay_directory=str(self.state / "overlays"),
            started_at=time.time(),
            min_free="1Mi",
            launcher=launcher(self.pod.uid),
        )

    def engine(self, hook: Hook = no_hook) -> PodEngine:
        return PodEngine(self.pod.uid, self.pod.kubelet.directory, self.state, hook=hook)

    def backup(self, *, hook: Hook = no_hook, **spec: Any) -> Backup:
        """Begin a backup in a thread. Raises: Refused, NotYet: nothing was touched."""
        backup = Backup(self.engine(hook), self.request(**spec))  # type: ignore[arg-type]
        self._backups.append(backup)
        return backup

    def held(self, **spec: Any) -> Backup:
        """Begin a push that QEMU holds in mid copy; `slow_down(0)` lets it go."""
        connection = self.pod.connect()  # beforehand: on a busy machine this takes as long as the copy

        def hold(moment: str, run: Run) -> None:
            if moment == "after BeginPush" and run.attempt == 1:
                self._limit(connection, SLOW_BYTES_PER_SECOND)

        backup = self.backup(hook=hold, **spec)
        try:
            backup.wait_for(Phase.COPYING)
        finally:
            connection.close()
        assert self.job_runs(), "the job ended before it could be held: make the disk larger"
        return backup

    def process(self, death: str = "") -> subprocess.Popen[bytes]:
        """Start an engine process that finishes what is in the journal; it dies at the moment `death`."""
        program = str(TESTS / "integration/launcher/engine.py")
        command = [sys.executable, "-P", program, str(self.pod.kubelet.directory), str(self.state), death]
        with (self.place / "engine.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent / "dev")))}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def finish(self) -> Run:
        """Let a new engine process finish what is in the journal, and return the run at its end."""
        code = self.process().wait(RUN_SECONDS)
        assert code == 0, (self.place / "engine.log").read_text()
        (run,) = NodeJournal(self.state).runs()
        return run

    # -- looking ------------------------------------------------------------------------------------------------

    def mounts(self) -> list[str]:
        """Return what is mounted into the pod, as the host and as the pod see it."""
        seen = [Path("/proc/self/mountinfo").read_text()]
        if self.pod.control_group.exists():
            seen.append(self.pod.run("cat", "/proc/self/mountinfo"))
        return [line for text in seen for line in text.splitlines() if ".partial" in line]

    def sets(self) -> list[Path]:
        return [path for path in sorted(self.location.glob("*/*/*")) if path != self.location / OLD_SET]

    def assert_nothing_left(self) -> None:
        assert self.mounts() == []
        assert not self.pod.volume.exists() or list(self.pod.volume.iterdir()) == []
        assert list(self.location.rglob(".*")) == []
        assert (self.location / OLD_SET / "vda.qcow2").read_text() == "an older backup"

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for backup in self._backups:
            backup.cancel()
            backup.thread.join(RUN_SECONDS)
        shutil.rmtree(self.place)
