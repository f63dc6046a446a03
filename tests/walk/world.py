"""A VM, a hypervisor, a store and a journal in memory; one backup walks through them, and fate may strike anywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fakes.clock import FakeClock
from fakes.hypervisor import FakeDisk, FakeDomain, FakeHypervisor
from fakes.journal import FakeJournal
from fakes.ledger import FakeLedger
from fakes.store import FakeStore
from vmbackup.api.conditions import ConditionType, find
from vmbackup.api.journal import Freeze, Launcher, Run
from vmbackup.api.vmbackup import Method, Outcome, Phase, VMBackupSpec, VMBackupStatus
from vmbackup.core.plan import Request, plan
from vmbackup.core.ports import Ports
from vmbackup.core.report import status_of
from vmbackup.tick import Turn, tick

UID = "7b0f3c51-0000-4000-8000-000000000001"
TURNS_MAX = 4000
LAUNCHER = Launcher(
    pod_uid="3c7d2c50-0000-4000-8000-00000000000a",
    directory="/run/kubevirt/hotplug-disks",
    owner_uid=107,
    owner_gid=107,
)


class Crash(BaseException):
    """The agent dies here."""


@dataclass
class World:
    """`strike_at`: the agent dies at the n-th effect (before or after any act, record or look).

    `in_pod`: libvirt and QEMU are in a launcher pod.
    """

    method: Method = Method.PUSH
    spec: dict[str, object] = field(default_factory=dict)
    disks: tuple[str, ...] = ("vda", "vdb")
    in_pod: bool = False
    strike_at: int = 0
    effects: int = 0
    crashes: int = 0
    each_turn: Callable[["World", int], None] = lambda _world, _turn: None

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.hypervisor = FakeHypervisor(now=self.clock.now)
        self.store = FakeStore(self.hypervisor.files, open_paths=self.hypervisor.open_paths)
        self.hypervisor.in_pod, self.hypervisor.mounts = self.in_pod, self.store.mounts
        self.journal = FakeJournal()
        self.ledger = FakeLedger()
        self.domain = self.hypervisor.add(
            FakeDomain("demo_vm1", disks=[FakeDisk(target, f"/images/{target}.qcow2") for target in self.disks])
        )
        self.sources = {disk.target: disk.source for disk in self.domain.disks}
        for port in (self.hypervisor, self.store, self.journal):
            port.hook = self._effect
        self.ports = Ports(self.hypervisor, self.store, self.journal, self.ledger, self.clock)

    def _effect(self, _call: object, _when: str) -> None:
        self.effects += 1
        if self.effects == self.strike_at:
            raise Crash

    def request(self) -> Request:
        spec = {"source": {"name": "vm1"}, "location": "local", "method": self.method, **self.spec}
        return Request(
            uid=UID,
            namespace="demo",
            name="first",
            spec=VMBackupSpec.model_validate(spec),
            domain="demo_vm1",
            location_path="/backups",
            overlay_directory="/overlays",
            started_at=self.clock.now(),
            launcher=LAUNCHER if self.in_pod else None,
        )

    def begin(self) -> Run:
        """Plan and write the first record: what the agent does once."""
        run = plan(self.request(), self.hypervisor.find("demo_vm1"), self.hypervisor.host(), self.clock.now())
        self.journal.record(run)
        return run

    def run_now(self) -> Run:
        """Return the run as it was told last: newer than the journal when that is full."""
        return self.ledger.last

    def walk(self) -> Run:
        """Take turns until the backup is over; after a crash go on from the journal, as a restarted agent does."""
        self.effects = 0
        strike, self.strike_at = self.strike_at, 0
        run = self.begin()
        self.effects, self.strike_at = 0, strike
        turn = Turn(run)
        for count in range(TURNS_MAX):
            self.each_turn(self, count)
            try:
                turn = tick(self.ports, turn)
            except Crash:
                turn = Turn(self._restart())
            if turn.wait_seconds is None:
                return turn.run
            self.clock.advance(turn.wait_seconds + 0.01)
        raise AssertionError(f"not over after {TURNS_MAX} turns: {turn.run.phase} {turn.run.trouble}")

    def _restart(self) -> Run:
        self.crashes += 1
        self.store.crash()
        self.hypervisor.restart_agent()
        self.clock.advance(1.0)
        return self.journal.runs()[0]

    # -- what must hold at the end ------------------------------------------------------------------------------

    def assert_home(self, run: Run) -> None:
        """The VM is as it was, nothing of ours is left, and the set is there exactly when success is told."""
        assert run.phase is Phase.DONE
        for disk in self.domain.disks:
            assert disk.source == self.sources[disk.target], f"{disk.target} is on {disk.source}"
            assert disk.inactive_source == self.sources[disk.target]
            assert disk.job is None
        assert self.domain.push is None
        assert not self.domain.guest.frozen
        assert run.freeze in (Freeze.NOT_TRIED, Freeze.OVER)
        left = [path for path in self.hypervisor.files if ".overlay" in path or ".partial" in path]
        assert not left, f"left behind: {left}"
        assert not self.store.directories
        assert not self.store.mounts, "the pod still sees a set"
        published = list(self.store.sets.values()) == [UID]
        assert published == (run.outcome is Outcome.SUCCEEDED)
        if published:
            assert {f"/backups/{run.set_path}/{disk.image}" for disk in run.disks} <= set(self.hypervisor.files)

    def effects_of_a_good_walk(self) -> int:
        """Return how many effects an undisturbed walk has."""
        twin = World(self.method, self.spec, self.disks, in_pod=self.in_pod)
        twin.walk()
        return twin.effects


def now_in(world: World) -> Phase:
    """Return the phase that was told last."""
    return world.run_now().phase if world.ledger.reports else Phase.PREPARING


def status(world: World) -> str:
    """Return what the user reads now."""
    run, facts = world.ledger.reports[-1]
    ready = find(status_of(run, facts, VMBackupStatus(), world.clock.now()).conditions, ConditionType.READY)
    assert ready is not None
    return ready.message
