"""Two agents with a state directory each know of one another by the daemon's socket."""

from pathlib import Path

import pytest

from vmbackup.errors import NotYet
from vmbackup.hypervisor.sole import socket_directory, sole


def test_second_agent_of_a_daemon_waits_until_the_first_is_gone(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/libvirt-sock"
    with sole(uri), pytest.raises(NotYet, match="another agent"), sole(uri):
        pytest.fail("both agents work")
    with sole(uri):
        pass


def test_daemon_that_was_never_started_is_waited_for_without_a_lock(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/none/libvirt-sock"
    with sole(uri), sole(uri):
        pass


@pytest.mark.parametrize(
    ("uri", "directory"),
    [
        ("qemu:///system", "/run/libvirt"),
        ("qemu+unix:///system?socket=/proc/7/root/run/libvirt/virtqemud-sock", "/proc/7/root/run/libvirt"),
        ("qemu+ssh://other/system", ""),
    ],
)
def test_lock_lies_where_the_socket_does(uri: str, directory: str) -> None:
    assert socket_directory(uri) == directory
