"""The faults: each strikes when it is entered and is mended when it is left."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import libvirt

from integration.system.programs import Program
from soak import strangers
from soak.guests import Guest
from soak.places import Place
from soak.scene import Scene

AGAIN_SECONDS = 1.0
CHILD_SECONDS = 6.0
KUBELET_SECONDS = 2.0


@dataclass(frozen=True)
class Blow:
    """What a fault is told: whom it strikes, and how to rest; `rest` returns True when the soak is over."""

    scene: Scene
    target: str
    rest: Callable[[float], bool]
    say: Callable[[str], None]

    @property
    def guest(self) -> Guest:
        return self.scene.guests[self.target]

    @property
    def place(self) -> Place:
        return self.scene.places[self.target]


Fault = Callable[[Blow], AbstractContextManager[None]]


def _in_hand(program: str, fault: Fault) -> Fault:
    """Return the fault with nobody else starting the program meanwhile."""

    @contextmanager
    def held(blow: Blow) -> Iterator[None]:
        with blow.scene.hands[program], fault(blow):
            yield

    return held


# -- our own processes ----------------------------------------------------------------------------------------------


@contextmanager
def agent_killed(blow: Blow) -> Iterator[None]:
    blow.scene.node.agent.kill()
    yield
    blow.scene.node.agent.start()


@contextmanager
def agent_killed_again(blow: Blow) -> Iterator[None]:
    agent = blow.scene.node.agent
    agent.kill()
    agent.start()
    yield
    agent.kill()
    agent.start()


@contextmanager
def agent_ended(blow: Blow) -> Iterator[None]:
    began = time.monotonic()
    code = blow.scene.node.agent.terminate()
    blow.say(f"agent ended with {code} after {time.monotonic() - began:.1f} s")
    yield
    blow.scene.node.agent.start()


@contextmanager
def agent_stopped(blow: Blow) -> Iterator[None]:
    """As on a node that is out of memory, or paused by its own hypervisor."""
    os.kill(pid(blow.scene.node.agent), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid(blow.scene.node.agent), signal.SIGCONT)


@contextmanager
def two_agents(blow: Blow) -> Iterator[None]:
    twin = blow.scene.node.new_agent("agent-twin")
    twin.start()
    try:
        yield
    finally:
        twin.kill()


@contextmanager
def controller_killed(blow: Blow) -> Iterator[None]:
    blow.scene.stage.controller.kill()
    yield
    blow.scene.stage.controller.start()


@contextmanager
def controller_ended(blow: Blow) -> Iterator[None]:
    code = blow.scene.stage.controller.terminate()
    blow.say(f"controller ended with {code}")
    yield
    blow.scene.stage.controller.start()


@contextmanager
def child_killed(blow: Blow) -> Iterator[None]:
    """Kill the first child of the agent that shows up: a copy or a verification."""
    deadline = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < deadline:
        children = _children(blow.scene.node.agent)
        if children:
            with suppress(ProcessLookupError):
                os.kill(children[0], signal.SIGKILL)
                blow.say(f"child {children[0]} killed")
            break
        if blow.rest(0.05):
            break
    yield


def keep_running(scene: Scene, over: Event, say: Callable[[str], None]) -> None:
    """Start a program again that has ended by itself, as a kubelet does."""
    programs = {"agent": scene.node.agent, "controller": scene.stage.controller}
    while not over.wait(KUBELET_SECONDS):
        for name, program in programs.items():
            if scene.hands[name].acquire(blocking=False):
                try:
                    if not program.runs:
                        say(f"{name} had ended by itself; started again")
                        program.start()
                finally:
                    scene.hands[name].release()


def pid(program: Program) -> int:
    """Return the process of a program that runs."""
    assert program._process is not None
    return program._process.pid


def _children(program: Program) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid(program)}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


# -- what we work with ----------------------------------------------------------------------------------------------


@contextmanager
def libvirtd_killed(blow: Blow) -> Iterator[None]:
    blow.scene.host.kill_daemon()
    yield
    blow.scene.host.start_daemon()


@contextmanager
def libvirtd_killed_twice(blow: Blow) -> Iterator[None]:
    """The completed statistics of a job are lost."""
    blow.scene.host.kill_daemon()
    blow.scene.host.start_daemon()
    yield
    blow.scene.host.kill_daemon()
    blow.scene.host.start_daemon()


@contextmanager
def api_server_away(blow: Blow) -> Iterator[None]:
    blow.scene.stage.cluster.stop_apiserver()
    yield
    blow.scene.stage.cluster.start_apiserver()


@contextmanager
def etcd_away(blow: Blow) -> Iterator[None]:
    blow.scene.stage.cluster.stop_etcd()
    yield
    blow.scene.stage.cluster.start_etcd()


@contextmanager
def qemu_killed(blow: Blow) -> Iterator[None]:
    with blow.guest.touched:
        running = blow.scene.host.qemu_pid(blow.guest.uuid)
        if running is not None:
            os.kill(running, signal.SIGKILL)
        yield
        blow.guest.start()


@contextmanager
def guest_destroyed(blow: Blow) -> Iterator[None]:
    with blow.guest.touched:
        with suppress(libvirt.libvirtError):  # libvirtd may be away
            blow.guest.call(lambda domain: domain.destroy())
        yield
        blow.guest.start()


@contextmanager
def location_deleted(blow: Blow) -> Iterator[None]:
    """Its resource is deleted and made again; the directory stays."""
    with suppress(Exception):  # the API server may be away
        blow.scene.stage.cluster.kubectl("delete", "vmbl", blow.target, "--wait=false", "--request-timeout=5s")
    yield
    while True:
        try:
            blow.scene.make_location(blow.place)
        except Exception as error:  # the API server may be away
            blow.say(f"location {blow.target} not made again yet: {str(error)[:160]}")
            time.sleep(AGAIN_SECONDS)
        else:
            return


FAULTS: dict[str, Fault] = {
    "agent killed": _in_hand("agent", agent_killed),
    "agent killed again while it recovers": _in_hand("agent", agent_killed_again),
    "agent asked to end": _in_hand("agent", agent_ended),
    "agent stopped": _in_hand("agent", agent_stopped),
    "two agents": _in_hand("agent", two_agents),
    "controller killed": _in_hand("controller", controller_killed),
    "controller asked to end": _in_hand("controller", controller_ended),
    "child killed": child_killed,
    "libvirtd killed": libvirtd_killed,
    "libvirtd killed twice": libvirtd_killed_twice,
    "API server away": api_server_away,
    "etcd away": etcd_away,
    "QEMU killed": qemu_killed,
    "guest destroyed": guest_destroyed,
    "location deleted": location_deleted,
    "location renamed away": lambda blow: blow.place.renamed_away(),
    "location filled": lambda blow: blow.place.filled(),
    "location read-only": lambda blow: blow.place.read_only(blow.rest, blow.say),
    "stranger's block job": lambda blow: strangers.block_job(blow.guest, blow.scene.host.images, blow.say),
    "stranger's backup job": lambda blow: strangers.backup_job(blow.guest, blow.scene.host.images, blow.say),
    "stranger's snapshot": lambda blow: strangers.snapshot(blow.guest, blow.scene.host.images, blow.say),
}
