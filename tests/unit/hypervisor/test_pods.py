"""Which processes are a pod's, and where it sees its volume: from what /proc shows under each driver."""

from pathlib import Path

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.vmi import HOTPLUG_VOLUME
from vmbackup.errors import NotYet, Refused
from vmbackup.hypervisor import pods

POD = "3c7d2c50-0000-4000-8000-00000000000a"
OTHER = "3c7d2c50-0000-4000-8000-00000000000b"
SLICE = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"
VOLUME = f"/var/lib/kubelet/pods/{POD}/{HOTPLUG_VOLUME}"


@pytest.mark.parametrize(
    "control_group",
    [
        f"0::/kubepods/besteffort/pod{POD}/0123abc",
        f"0::/kubepods/pod{POD}/0123abc",
        f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-0123abc.scope",
        f"0::/../../../kubepods-burstable.slice/{SLICE}/crio-0123abc.scope",
        f"9:name=systemd:/\n8:pids:/kubepods/besteffort/pod{POD}/0123abc\n0::/",
        f"0::/kubepods/besteffort/pod{POD}/0123abc/libvirt/emulator",
    ],
)
def test_process_of_the_pod_is_found(tmp_path: Path, control_group: str) -> None:
    for number, groups in {"1": "0::/init.scope", "77": control_group, "78": f"0::/kubepods/pod{OTHER}/x"}.items():
        (tmp_path / number).mkdir()
        (tmp_path / number / "cgroup").write_text(f"{groups}\n")
    (tmp_path / "self").mkdir()
    assert list(pods.processes(POD, tmp_path)) == [77]


def test_launcher_pods_of_a_node_are_counted_and_other_daemons_are_not(tmp_path: Path) -> None:
    volume = f"701 700 8:1 {VOLUME} /run/kubevirt/hotplug-disks rw master:1 - ext4 /dev/sda1 rw\n"
    processes = {
        "1": ("libvirtd", "0::/system.slice/libvirtd.service", ""),
        "2": ("virtqemud", f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-0123abc.scope", volume),
        "3": ("virtqemud", f"0::/kubepods/besteffort/pod{POD}/0123abc", volume),
        "4": ("sleep", f"0::/kubepods/besteffort/pod{POD}/0123abc", volume),
        "5": ("libvirtd", f"0::/kubepods/besteffort/pod{OTHER}/0123abc", ""),
    }
    for number, (comm, group, mounts) in processes.items():
        (tmp_path / number).mkdir()
        for name, text in (("comm", comm), ("cgroup", group), ("mountinfo", mounts)):
            (tmp_path / number / name).write_text(f"{text}\n")
    assert pods.launchers(tmp_path) == {POD}


@pytest.mark.parametrize("control_group", [f"/x{POD}/a", f"/notapod{POD}/a", f"/pod{POD}x/a", f"/kube{SLICE}x/a", "/"])
def test_process_of_a_name_like_it_is_not_the_pods(tmp_path: Path, control_group: str) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cgroup").write_text(f"0::{control_group}\n")
    assert list(pods.processes(POD, tmp_path)) == []


def test_volume_is_found_where_the_pod_sees_it() -> None:
    lines = [
        "700 600 0:55 / / rw shared:9 - overlay overlay rw",
        f"701 700 8:1 {VOLUME} /var/run/kubevirt/hotplug-disks rw,relatime master:1 - ext4 /dev/sda1 rw",
    ]
    assert pods._hotplug_directory(POD, "\n".join(lines)) == "/var/run/kubevirt/hotplug-disks"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"701 700 8:1 {VOLUME} /run/hotplug-disks rw - ext4 /dev/sda1 rw", "without mountPropagation"),
        (f"701 700 8:1 {VOLUME.replace(POD, OTHER)} /run/hotplug-disks rw master:1 - ext4 x rw", "no emptyDir"),
        ("", "no emptyDir"),
    ],
)
def test_pod_that_cannot_be_shown_a_directory_is_refused(line: str, words: str) -> None:
    with pytest.raises(Refused, match=words) as refusal:
        pods._hotplug_directory(POD, line)
    assert refusal.value.reason == Reason.METHOD_UNSUPPORTED


def test_uri_of_the_nodes_own_daemon_is_opened_as_it_is() -> None:
    with pods.reach("qemu:///system") as uri:
        assert uri == "qemu:///system"


def test_pod_without_a_daemon_is_waited_for() -> None:
    with pytest.raises(NotYet, match="no libvirt daemon"), pods.reach(pods.address(POD)):
        raise AssertionError("there is no such pod")


@pytest.mark.parametrize("text", ["", "..", f"{POD}/..", f"{POD}\n", POD.upper(), f" {POD}", "*"])
def test_what_is_no_pod_uid_is_told(text: str) -> None:
    assert not pods.is_pod_uid(text)
    assert pods.is_pod_uid(POD)
