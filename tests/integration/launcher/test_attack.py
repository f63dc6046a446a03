"""A pod that tries to lead the agent out of its root: by links, by links swapped in a race, by names of ours."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.launcher.pod import HOTPLUG_DISKS, LauncherPod
from integration.launcher.scene import Scene
from vmbackup.api.vmbackup import Outcome
from vmbackup.errors import Failed, NotYet, VMBackupError
from vmbackup.hypervisor import pods
from vmbackup.store.mounts import Mounts

RACES = 400
SOCKET = "/run/libvirt/libvirt-sock"
# What a link may say to get out: absolute, upwards, and through what /proc shows of other roots.
WAYS_OUT = ["{host}", "../../../../../../../..{host}", "/proc/1/root{host}", "/proc/self/root{host}"]
# Swaps the two names for ever, in one step each: renameat2(2) with RENAME_EXCHANGE.
SWAP = """
import ctypes, sys
libc = ctypes.CDLL(None)
while libc.renameat2(-100, sys.argv[1].encode(), -100, sys.argv[2].encode(), 2) == 0: pass
"""


@pytest.fixture
def host(directory: Path) -> Iterator[Path]:
    """A directory of the host that the pod must not reach, with a libvirt socket and a secret in it."""
    place = directory / f"host-{uuid.uuid4().hex[:8]}"
    (place / "libvirt").mkdir(parents=True)
    (place / "secret").write_text("of the host")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "libvirt/libvirt-sock"))
        listening.listen()
        listening.settimeout(0)
        yield place
        with pytest.raises(BlockingIOError):
            listening.accept()  # nobody has come
    shutil.rmtree(place)


def reached(pod: LauncherPod) -> tuple[int, int] | None:
    """Return the identity of the socket that a connection would be made to, None when there is none."""
    try:
        with pods.reach(pods.address(pod.uid)) as uri:
            status = os.stat(uri.partition("socket=")[2])
            return status.st_dev, status.st_ino
    except VMBackupError:
        return None


@contextlib.contextmanager
def swapping(pod: LauncherPod, one: str, other: str) -> Iterator[None]:
    """Let a process in the pod swap two names all the time."""
    inside = ["nsenter", f"--mount=/proc/{pod.pid}/ns/mnt", "--", "chroot", str(pod.root)]
    process = subprocess.Popen([*inside, "python3", "-c", SWAP, one, other])
    try:
        yield
        assert process.poll() is None, "the swapping ended before its time"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("way", WAYS_OUT)
def test_link_in_place_of_the_socket_directory_stays_in_the_pod(pod: LauncherPod, host: Path, way: str) -> None:
    own = reached(pod)
    assert own is not None
    pod.run("mv", "/run/libvirt", "/run/kept")
    pod.run("ln", "-s", way.format(host=host / "libvirt"), "/run/libvirt")
    assert reached(pod) is None
    pod.run("ln", "-sfn", "/run/kept", "/run/libvirt")  # a link within the pod is the pod's own business
    assert reached(pod) == own


@pytest.mark.parametrize("way", WAYS_OUT)
def test_link_in_place_of_the_socket_stays_in_the_pod(pod: LauncherPod, host: Path, way: str) -> None:
    pod.run("mv", SOCKET, f"{SOCKET}.kept")
    pod.run("ln", "-s", way.format(host=host / "libvirt/libvirt-sock"), SOCKET)
    assert reached(pod) is None


def test_links_swapped_in_a_race_never_lead_out_of_the_pod(pod: LauncherPod, host: Path) -> None:
    own = reached(pod)
    pod.run("ln", "-s", f"../../../../../..{host / 'libvirt'}", "/run/bait")
    with swapping(pod, "/run/libvirt", "/run/bait"):
        seen = {reached(pod) for _ in range(RACES)}
    assert own in seen, "the race was never won by the true directory: it proves nothing"
    assert seen <= {own, None}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_firmware_variables_are_read_in_the_pod_and_not_on_the_host(pod: LauncherPod, host: Path, way: str) -> None:
    pod.run("ln", "-s", way.format(host=host / "secret"), "/run/nvram")
    with pytest.raises(OSError, match=r"No such file|symbolic links|cross-device") as refused:
        pods.read_file(pod.uid, "/run/nvram", 1 << 20)
    assert refused.value.errno in (errno.ENOENT, errno.ELOOP, errno.EXDEV)
    with pytest.raises(FileNotFoundError):
        pods.read_file(pod.uid, str(host / "secret"), 1 << 20)


def test_device_or_pipe_in_place_of_firmware_variables_is_refused(pod: LauncherPod) -> None:
    pod.run("mkfifo", "/run/pipe")
    for path in ("/run/pipe", "/dev/zero", "/run"):
        with pytest.raises((VMBackupError, OSError)):
            pods.read_file(pod.uid, path, 1 << 20)


def test_link_in_place_of_the_mount_point_is_refused(scene: Scene, host: Path) -> None:
    scene.start_vm()
    run = scene.engine().begin(scene.request())
    scene.pod.run("ln", "-s", str(host), f"{HOTPLUG_DISKS}/{run.partial_name}")
    ended = scene.engine().finish(run)
    assert ended.outcome is Outcome.FAILED
    assert ended.failure is not None
    assert "link" in ended.failure.message
    assert sorted(path.name for path in host.iterdir()) == ["libvirt", "secret"]
    assert scene.mounts() == []
    assert (scene.pod.volume / run.partial_name).is_symlink(), "what the pod has put there is the pod's"


def test_mount_point_swapped_in_a_race_never_mounts_over_the_host(scene: Scene, host: Path) -> None:
    """The pod's name changes between a directory and a link to the host while it is mounted on and unmounted."""
    scene.start_vm()
    engine = scene.engine()
    run = engine.begin(scene.request())
    partial = scene.location / run.partial_path
    partial.mkdir(parents=True)
    mounts = Mounts(scene.pod.kubelet.directory)
    scene.pod.run("mkdir", f"{HOTPLUG_DISKS}/{run.partial_name}")
    scene.pod.run("ln", "-s", f"../../../../../../../../../../../..{host}", f"{HOTPLUG_DISKS}/bait")
    mounted = 0
    with swapping_unless_mounted(scene.pod, f"{HOTPLUG_DISKS}/{run.partial_name}", f"{HOTPLUG_DISKS}/bait"):
        for _ in range(RACES):
            with contextlib.suppress(OSError, Failed):
                mounts.add(run)
            points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
            assert not [point for point in points if point.startswith(str(host))]
            mounted += mounts.has(run)
            with contextlib.suppress(OSError, Failed):
                mounts.remove(run)
    mounts.remove(run)
    assert mounted, "the race was never won by the directory: it proves nothing"
    assert scene.mounts() == []
    assert sorted(path.name for path in host.iterdir()) == ["libvirt", "secret"]
    for left in (partial, partial.parent):
        with contextlib.suppress(OSError):
            left.rmdir()


def test_process_of_another_pod_is_not_taken_for_the_daemon(pod: LauncherPod) -> None:
    with pytest.raises(NotYet, match="no libvirt daemon"):
        pods.daemon_of(str(uuid.uuid4()))
    with pytest.raises(NotYet, match="no libvirt daemon"):
        pods.daemon_of(f"{pod.uid[:-1]}{'0' if pod.uid[-1] != '0' else '1'}")


@contextlib.contextmanager
def swapping_unless_mounted(pod: LauncherPod, one: str, other: str) -> Iterator[None]:
    """As `swapping`; the kernel refuses to rename what is mounted on at that moment, so it is tried on and on."""
    program = SWAP.replace(" == 0: pass", " < 2: pass")
    inside = ["nsenter", f"--mount=/proc/{pod.pid}/ns/mnt", "--", "chroot", str(pod.root)]
    process = subprocess.Popen([*inside, "python3", "-c", program, one, other])
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
