"""One test's place on a daemon: its VMs, its location, its journal, and engines that may be killed."""

import itertools
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration.libvirt.backup import RUN_SECONDS, Backup
from integration.libvirt.engine import Engine, Hook, no_hook
from integration.libvirt.machines import VM, wait_until
from testbed.guests import Disk, Options, domain_xml, start_guest
from testbed.hypervisor import Libvirtd as Daemon
from testbed.images import disk_image, overlay_image
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Phase, VMBackupSpec
from vmbackup.core.plan import Request
from vmbackup.store.clock import SteadyClock
from vmbackup.store.journal import NodeJournal
from vmbackup.units import MIB

NAMESPACE = "team-a"
TESTS = Path(__file__).resolve().parents[2]
_numbers = itertools.count(1)
Edit = Callable[[str], str]


class Rig:
    """Everything of one test lies below `place`: disks in `disks`, sets in `location`, the journal in `state`."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.number = next(_numbers)
        self.place = daemon.images / f"t{self.number}"
        self.disks, self.location, self.state = (self.place / name for name in ("disks", "location", "state"))
        for directory in (self.place, self.disks, self.location, self.state):
            directory.mkdir(mode=0o755)
        self.vms: list[VM] = []
        self._elsewhere: list[Path] = []
        self._ends: list[Callable[[], object]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._backups: list[Backup] = []

    def move_to(self, file_system: str, *, disks: bool = False) -> Path:
        """Let the sets (or the disks) of this test lie on another file system; return its root."""
        root = self.daemon.images / file_system
        here = root / f"t{self.number}"
        if here not in self._elsewhere:
            here.mkdir(mode=0o755)
            self._elsewhere.append(here)
        if disks:
            self.disks = here / "disks"
            self.disks.mkdir(mode=0o755)
        else:
            self.location = here / "location"
            self.location.mkdir(mode=0o755)
        return root

    # -- making -------------------------------------------------------------------------------------------------

    def image(self, name: str, image_format: str = "qcow2", *, mib: int = 64, data_mib: int = 8) -> Path:
        return disk_image(self.disks / f"{name}.{image_format}", image_format, mib * MIB, data_mib * MIB)

    def large_image(self, name: str = "large", *, mib: int = 1024) -> Path:
        """Make an image with more data than QEMU copies before it can be held; most of it is shared by all tests."""
        golden = self.daemon.images / f"large-{mib}.qcow2"
        if not golden.exists():
            disk_image(golden, "qcow2", mib * MIB, mib * MIB)
        return overlay_image(self.disks / f"{name}.qcow2", golden)

    def vm(self, *disks: Disk, options: Options | None = None, persistent: bool = True, edit: Edit = str) -> VM:
        """Start a VM; without disks it gets one qcow2. `edit` changes its XML before."""
        name = f"{NAMESPACE}_vm{self.number}-{len(self.vms)}"
        disks = disks or (Disk(self.image(f"vda{len(self.vms)}")),)
        xml = edit(domain_xml(name, disks, options or Options(memory_mib=32)))
        paths = {disk.target: disk.source for disk in disks if disk.source}
        vm = VM(self.daemon, name, start_guest(self.daemon.uri, xml, define=persistent), self.disks, paths)
        self.vms.append(vm)
        return vm

    def request(self, vm: VM, **spec: Any) -> Request:
        """Return a request for a backup of the VM; keywords are fields of the spec."""
        body = {"source": {"name": vm.short_name}, "location": "local", **spec}
        return Request(
            uid=str(uuid.uuid4()),
            namespace=NAMESPACE,
            name="backup",
            spec=VMBackupSpec.model_validate(body),
            domain=vm.name,
            location_path=str(self.location),
            overlay_directory=str(self.state / "overlays"),
            started_at=time.time(),
            min_free="1Mi",
        )

    # -- running ------------------------------------------------------------------------------------------------

    def backup(
        self,
        vm: VM,
        *,
        request: Request | None = None,
        hook: Hook = no_hook,
        may_use_monitor: bool = False,
        **spec: Any,
    ) -> Backup:
        """Begin a backup in a thread. Raises: Refused, NotYet: nothing was touched."""
        engine = Engine(self.daemon.uri, self.state, may_use_monitor=may_use_monitor, hook=hook)
        backup = Backup(engine, request or self.request(vm, **spec))
        self._backups.append(backup)
        return backup

    def run(self, vm: VM, *, request: Request | None = None, **spec: Any) -> Run:
        """Back up the VM and return the run at its end."""
        return self.backup(vm, request=request, **spec).end()

    def held_push(self, vm: VM, **spec: Any) -> Backup:
        """Begin a push whose first attempt is held by QEMU in mid copy; `vm.slow_down(0)` lets it go."""

        def hold(moment: str, run: Run) -> None:
            if moment == "after BeginPush" and run.attempt == 1:
                vm.slow_down()

        backup = self.backup(vm, hook=hold, **{"method": "Push", **spec})
        backup.wait_for(Phase.COPYING)
        assert vm.portrait().jobs, "the job ended before it could be held: make the disk larger"
        return backup

    def held_copy(self, vm: VM, **spec: Any) -> Backup:
        """Begin a snapshot backup whose copy takes minutes."""
        backup = self.backup(vm, **{"method": "Snapshot", "max_bytes_per_second": "128Ki", **spec})
        wait_until(lambda: backup.phase is Phase.COPYING and backup.copying(), "the copy runs")
        assert vm.on_overlay()
        return backup

    def plan(self, vm: VM, **spec: Any) -> Run:
        """Write the record that an engine process will find."""
        return Engine(self.daemon.uri, self.state).begin(self.request(vm, **spec))

    def clock(self) -> float:
        """Return the time as engines of this rig count it."""
        return SteadyClock(self.state, busy=True).now()

    def process(self, death: str = "") -> subprocess.Popen[bytes]:
        """Start an engine process that finishes what is in the journal; it dies at the moment `death`."""
        command = [sys.executable, "-P", str(TESTS / "integration/libvirt/engine.py"), self.daemon.uri, str(self.state)]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        log = (self.place / "engine.log").open("ab")
        process = subprocess.Popen([*command, death], env=environment, stdout=log, stderr=log)
        log.close()
        self._processes.append(process)
        return process

    def finish(self) -> Run:
        """Let a new engine process finish what is in the journal, and return the run at its end."""
        code = self.process().wait(RUN_SECONDS)
        assert code == 0, (self.place / "engine.log").read_text()
        return self.record()

    def record(self) -> Run:
        """Return the one run of the journal."""
        (run,) = NodeJournal(self.state).runs()
        return run

    # -- looking ------------------------------------------------------------------------------------------------

    def sets(self) -> list[Path]:
        return sorted(path for path in self.location.glob("*/*/*") if not path.name.startswith("."))

    def debris(self) -> list[str]:
        """Return what is unfinished in the location, and overlays anywhere."""
        unfinished = [path for path in self.location.rglob(".*") if path.name != ".lost+found"]
        overlays = [path for top in (self.place, *self._elsewhere) for path in top.rglob(".vmbackup.*")]
        return sorted(str(path) for path in [*unfinished, *overlays])

    def at_end(self, deed: Callable[[], object]) -> None:
        """Do something before the VMs are removed."""
        self._ends.append(deed)

    def close(self) -> None:
        for deed in self._ends:
            deed()
        for process in self._processes:
            process.kill()
            process.wait()
        for backup in self._backups:
            backup.cancel()
            backup.thread.join(RUN_SECONDS)
        for vm in self.vms:
            vm.remove()
        for directory in (self.place, *self._elsewhere):
            shutil.rmtree(directory)
