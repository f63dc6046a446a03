import os
from pathlib import Path

import pytest

from vmbackup.errors import Failed, NotYet, Refused
from vmbackup.store.paths import below, location_directory, open_file, write_file


def refusal(path: Path | str) -> str:
    with pytest.raises(Refused) as caught, location_directory(str(path)):
        pass
    assert caught.value.reason == "LocationUnusable"
    return caught.value.message


def test_missing_location_may_be_mounted_later_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "away" / "deeper"
    with pytest.raises(NotYet, match=f"{tmp_path}/away does not exist"), location_directory(str(path)):
        pass
    assert not (tmp_path / "away").exists()


def test_file_as_location_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file is not a directory" in refusal(tmp_path / "file")


@pytest.mark.parametrize("planted", ["a", "a/b", "a/b/c"])
def test_link_at_any_component_of_the_location_is_refused(tmp_path: Path, planted: str) -> None:
    real = tmp_path / "real"
    (real / "b" / "c").mkdir(parents=True)
    (real / "c").mkdir()
    link = tmp_path / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(real)
    (link / "b").mkdir(exist_ok=True)
    assert f"{link} is a link" in refusal(tmp_path / "a" / "b" / "c")


@pytest.mark.parametrize("path", ["relative/path", "/srv/../etc", "/srv//backups", "/srv/./backups"])
def test_path_that_is_not_plain_is_refused(path: str) -> None:
    assert path in refusal(path)


@pytest.mark.parametrize("planted", ["ns", "ns/vm", "ns/vm/set"])
def test_link_at_any_component_below_the_location_is_refused(tmp_path: Path, planted: str) -> None:
    outside, location = tmp_path / "outside", tmp_path / "location"
    outside.mkdir()
    (location / planted).parent.mkdir(parents=True)
    (location / planted).symlink_to(outside)
    with (
        location_directory(str(location)) as root,
        pytest.raises(Failed, match="is a link or not a directory"),
        below(root, "ns/vm/set", make=True),
    ):
        pass
    assert list(outside.iterdir()) == []


def test_made_directories_let_qemu_pass_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with location_directory(str(tmp_path)) as root, below(root, "ns/vm", make=True):
            pass
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "ns", tmp_path / "ns" / "vm")] == [0o711, 0o711]


@pytest.mark.parametrize("relative", ["..", "ns/../..", "ns//vm", "/etc"])
def test_relative_path_cannot_leave_the_location(tmp_path: Path, relative: str) -> None:
    (tmp_path / "ns").mkdir()
    with location_directory(str(tmp_path)) as root, pytest.raises(Failed), below(root, relative, make=True):
        pass


def test_pipe_in_place_of_an_image_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vda.qcow2")
    with location_directory(str(tmp_path)) as root, pytest.raises(Failed, match="not a regular file"):
        open_file(root, "vda.qcow2")


def test_link_in_place_of_an_image_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "vda.qcow2").symlink_to("/etc/hostname")
    with location_directory(str(tmp_path)) as root, pytest.raises(Failed, match="is a link"):
        open_file(root, "vda.qcow2")


def test_written_file_replaces_a_planted_link_instead_of_following_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "domain.xml").symlink_to(victim)
    with location_directory(str(tmp_path)) as root:
        write_file(root, "domain.xml", b"new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "domain.xml").is_symlink()
    assert (tmp_path / "domain.xml").read_bytes() == b"new"
    assert (tmp_path / "domain.xml").stat().st_mode & 0o777 == 0o600
