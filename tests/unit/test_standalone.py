"""`vmbackup-operator run` on a host whose disk is full, or whose user is impatient."""

import io
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from fakes.hypervisor import FakeDisk, FakeDomain, FakeHypervisor
from fakes.store import FakeStore
from vmbackup import standalone
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import VMBackup
from vmbackup.core.steps import StartCopy
from vmbackup.errors import Failed
from vmbackup.standalone import Settings, Standalone
from vmbackup.store.journal import NodeJournal

REAL_SIGNAL = signal.signal
REQUEST = """
kind: VMBackup
apiVersion: vmbackup.dev/v1alpha1
metadata: {name: first, namespace: demo}
spec: {source: {name: vm1}, location: here, method: %s}
"""


class Host:
    """A host in memory with a real journal, and one call of the command on it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hypervisor = FakeHypervisor()
        self.store = FakeStore(self.hypervisor.files, open_paths=self.hypervisor.open_paths)
        self.domain = self.hypervisor.add(FakeDomain("demo_vm1", disks=[FakeDisk("vda", "/images/vda.qcow2")]))
        self.state = directory / "state"
        self.request = directory / "request.yaml"
        self.output = io.StringIO()
        self.full = False
        self.longest_pause_seconds = 0.005
        self.refused = lambda: None  # called whenever a record could not be written
        self._patch = monkeypatch
        monkeypatch.setattr(standalone, "Libvirtd", lambda *_, **__: self)
        monkeypatch.setattr(standalone, "Directories", lambda **_: self.store)
        monkeypatch.setattr("vmbackup.core.ending.ATTEMPT_REST_SECONDS", (0.01,))
        pause = Standalone._pause
        monkeypatch.setattr(
            Standalone, "_pause", lambda alone, seconds: pause(alone, min(seconds, self.longest_pause_seconds))
        )
        record = NodeJournal.record

        def perhaps_full(journal: NodeJournal, run: Any) -> None:
            if self.full:
                self.refused()
                raise Failed(Reason.STORE_ERROR, "the node journal cannot be written; free space there", heals=True)
            record(journal, run)

        monkeypatch.setattr(NodeJournal, "record", perhaps_full)
        monkeypatch.setattr(signal, "signal", self._handle)
        self._handlers: dict[int, Any] = {}

    def _handle(self, number: int, handler: Any) -> None:
        self._handlers[number] = handler

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._handlers[signal.SIGINT](signal.SIGINT, None)

    def call(self, method: str = "Push") -> int:
        self.request.write_text(REQUEST % method)
        console = Console(file=self.output, width=500)
        settings = Settings(self.request, Path("/backups"), "test:///", self.state, "1Mi", allow_monitor=False)
        return standalone.main(settings, console)

    # what Standalone asks of Libvirtd besides the port

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hypervisor, name)

    @contextmanager
    def watch(self, _heard: Any) -> Iterator[None]:
        yield

    def vms(self) -> list[tuple[str, str, bool]]:
        return [("demo_vm1", self.domain.uuid, True)]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_journal_that_is_full_from_the_begin_ends_in_words(host: Host) -> None:
    host.full = True
    assert host.call() == 1
    assert "the node journal cannot be written; free space there" in host.output.getvalue()
    assert not host.store.directories, "nothing was made"


def test_state_directory_that_cannot_be_made_ends_in_words(host: Host) -> None:
    host.state.write_text("no directory")
    assert host.call() == 2
    assert f"the state directory {host.state} cannot be used" in host.output.getvalue()


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_journal_that_fills_up_on_the_way_is_waited_for(host: Host, method: str) -> None:
    """In words, and with the VM at home; when there is room again, the backup goes on to its end."""
    tries = iter(range(5))

    def make_room() -> None:
        host.full = next(tries, None) is not None

    def fill(_call: object, _when: str) -> None:
        host.full, host.store.hook = True, lambda _call, _when: None

    host.store.hook, host.refused = fill, make_room
    assert host.call(method) == 0, host.output.getvalue()
    assert "the node journal cannot be written; free space there" in host.output.getvalue()


def test_ctrl_c_ends_the_wait_for_a_full_journal_with_the_vm_at_home(host: Host) -> None:
    def fill(call: object, when: str) -> None:
        host.full = host.full or (call is StartCopy and when == "after")

    def interrupt_at_home() -> None:
        if host.domain.disk("vda").source == "/images/vda.qcow2":
            host.interrupt()

    host.store.hook, host.refused = fill, interrupt_at_home
    assert host.call("Snapshot") == 1
    assert "the node journal cannot be written; free space there" in host.output.getvalue()
    assert "Call again" in host.output.getvalue()
    disk = host.domain.disk("vda")
    assert (disk.source, disk.inactive_source, disk.job) == ("/images/vda.qcow2", "/images/vda.qcow2", None)
    assert not host.domain.guest.frozen
    host.full, host.store.hook, host.refused = False, lambda _call, _when: None, lambda: None
    host.store.crash()  # the process has ended
    assert host.call("Push") == 0, host.output.getvalue()
    left = [path for path in host.hypervisor.files if path.endswith(".overlay")]
    assert (left, host.store.directories) == ([], set()), "what the first call left is finished by the next one"
    assert NodeJournal(host.state).runs() == ()


def test_ctrl_c_is_noticed_when_the_kernel_gives_it_to_another_thread(host: Host) -> None:
    settings = Settings(host.request, Path("/backups"), "test:///", host.state, "1Mi", allow_monitor=False)
    backup = VMBackup.parse(
        yaml.safe_load(REQUEST % "Push") | {"metadata": {"name": "x", "namespace": "demo", "uid": "u"}}
    )
    alone = Standalone(settings, backup, lambda _key, _status: None)
    host.longest_pause_seconds = 3600
    late = threading.Event()
    over = threading.Event()

    def press() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        if not over.wait(20):
            late.set()
            alone.cancel()

    before = REAL_SIGNAL(signal.SIGUSR1, lambda *_: alone.cancel())
    try:
        thread = threading.Thread(target=press)
        thread.start()
        alone._pause(3600)
        over.set()
        thread.join()
    finally:
        REAL_SIGNAL(signal.SIGUSR1, before)
    assert not late.is_set()
    assert alone.ledger.cancelled
