"""The contract's place in memory."""

from contract.site import GUEST_WRITES_BYTES, Wish, make_run, numbers, run_disk, targets_of
from fakes.hypervisor import FakeDisk, FakeDomain, FakeHypervisor
from vmbackup.api.journal import Run
from vmbackup.core.facts import BackupJob, BlockJob
from vmbackup.core.ports import Hypervisor
from vmbackup.core.steps import BeginPush, StartCommit


class FakeSite:
    """In memory."""

    can_push = True

    def __init__(self) -> None:
        self.fake = FakeHypervisor()
        self.hypervisor: Hypervisor = self.fake

    def new_vm(self, *wishes: Wish, persistent: bool = True) -> Run:
        number = next(numbers)
        golden = "/images/golden.qcow2"
        disks = {wish.target: f"/images/vm-{number}-{wish.target}.{wish.format}" for wish in wishes}
        domain = self.fake.add(
            FakeDomain(
                f"team-a_vm-{number}",
                [self._disk(wish, disks[wish.target], golden) for wish in wishes],
                persistent=persistent,
            )
        )
        domain.guest.agent = False
        run_disks = tuple(run_disk(wish, disks[wish.target], golden) for wish in wishes if not wish.empty_cdrom)
        return make_run(domain.name, domain.uuid, "/backups", run_disks, number)

    @staticmethod
    def _disk(wish: Wish, source: str, golden: str) -> FakeDisk:
        if wish.empty_cdrom:
            return FakeDisk(wish.target, device="cdrom", readonly=True)
        backing = (golden,) if wish.golden else ()
        return FakeDisk(wish.target, source, wish.format, backing, shareable=wish.shareable)

    def new_vm_without_room(self) -> Run:
        run = self.new_vm(Wish(format="raw"))
        self._vm(run).paused_by_io_error = True
        return run

    def make_room(self, run: Run) -> None:
        """There is room without end in memory."""

    def begin_held(self, run: Run, step: BeginPush | StartCommit | None = None) -> None:
        self._vm(run).looks = 0
        self.hypervisor.perform(run, step or BeginPush(targets_of(run)))

    def let_go(self, run: Run) -> None:
        self._vm(run).looks = 1

    def guest_writes(self, run: Run, target: str) -> None:
        path = self._vm(run).disk(target).source
        self.fake.files[path] += GUEST_WRITES_BYTES

    def kill_qemu(self, run: Run) -> None:
        self._vm(run).kill_qemu()

    def start_guest(self, run: Run) -> None:
        self._vm(run).restart_guest()

    def pause_guest(self, run: Run) -> None:
        self._vm(run).paused = True

    def kill_daemon(self) -> None:
        self.fake.kill_daemon()

    def start_daemon(self) -> None:
        self.fake.start_daemon()

    def end_push_unseen(self, run: Run) -> None:
        self._vm(run).advance()

    def begin_foreign_push(self, run: Run) -> None:
        self._vm(run).foreign_job = BackupJob("backup", 1, 2, {"vda": "/elsewhere/vda.qcow2"})

    def begin_foreign_copy(self, run: Run, target: str) -> None:
        self._vm(run).disk(target).job = BlockJob("copy", 1, 2, mirror_path="/elsewhere/copy.qcow2")

    def exists(self, path: str) -> bool:
        return path in self.fake.files

    def put_file(self, path: str) -> None:
        self.fake.files[path] = 1

    def fingerprint(self, path: str) -> object:
        return self.fake.files[path], self.fake.images[path].commits if path in self.fake.images else 0

    def same_content(self, source: str, copy: str) -> bool:
        return source in self.fake.files and copy in self.fake.files

    def _vm(self, run: Run) -> FakeDomain:
        return self.fake.domains[run.domain_uuid]
