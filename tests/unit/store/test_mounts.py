"""Which mounts are ours, by what the kernel shows of them."""

import errno
import os
from pathlib import Path

import pytest

from fakes.sample import SET, UID
from vmbackup.errors import Failed
from vmbackup.store import mounts as module
from vmbackup.store.mounts import Mounts

POD = "3c7d2c50-0000-4000-8000-00000000000a"
VOLUME = f"/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~empty-dir/hotplug-disks"
NAME = f".20261123T120000Z-nightly-0f8fad5b.{UID}.1.partial"
AT = SET.rpartition("/")[0]
LINES = (
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
    "30 22 0:40 / /srv/nfs rw,relatime shared:2 - nfs4 server:/export rw",
    "31 22 254:0 /var/lib/kubelet/pods /var/lib/kubelet/pods rw shared:1 - ext4 /dev/vda rw",
)


def every(tmp_path: Path, *lines: str) -> list[tuple[str, ...]]:
    table = tmp_path / "mountinfo"
    table.write_text("".join(f"{line}\n" for line in (*LINES, *lines)))
    return [tuple(mount) for mount in Mounts(mountinfo=table).every()]


def line(root: str, point: str, device: str = "254:0") -> str:
    return f"99 31 {device} {root} {point} rw,nosuid,nodev,noexec shared:1 - ext4 /dev/vda rw"


@pytest.mark.parametrize(
    ("root", "device", "location"),
    [
        (f"/srv/backups/{AT}/{NAME}", "254:0", "/srv/backups"),
        (f"/deep/er/{AT}/{NAME}", "0:40", "/srv/nfs/deep/er"),
        (f"/{AT}/{NAME}", "0:40", "/srv/nfs"),
        (f"/{AT}/{NAME}", "0:41", ""),
        (f"/srv/backups/{AT}/{NAME}//deleted", "254:0", "/srv/backups"),
    ],
)
def test_ours_is_known_by_what_it_shows(tmp_path: Path, root: str, device: str, location: str) -> None:
    found = every(tmp_path, line(root, f"{VOLUME}/{NAME}", device))
    assert found == [("99", VOLUME, NAME, POD, UID, 1, location, SET)]


def test_ours_is_known_though_the_pod_has_renamed_its_directory(tmp_path: Path) -> None:
    (found,) = every(tmp_path, line(f"/srv/backups/{AT}/{NAME}", f"{VOLUME}/a/b\\040\\012c"))
    assert found[2] == "a/b \nc"


@pytest.mark.parametrize(
    ("root", "point"),
    [
        ("/pvc/disk.img", f"{VOLUME}/{NAME}"),  # KubeVirt's own, under a name that looks like ours
        (f"/srv/backups/{AT}/{NAME}", f"/mnt/{NAME}"),  # an administrator's
        (f"/srv/backups/{AT}/20261123T120000Z-nightly-0f8fad5b", f"{VOLUME}/set"),  # a published set
    ],
)
def test_mount_of_others_is_not_ours(tmp_path: Path, root: str, point: str) -> None:
    assert every(tmp_path, line(root, point)) == []


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSYS, "older than 5.12"), (errno.EPERM, "privileged")])
def test_node_that_cannot_mount_says_why(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refuse(_directory: int, _point: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "_mount", refuse)
    with pytest.raises(Failed, match=words) as failure:
        module._bind(0, 0)
    assert not failure.value.heals
