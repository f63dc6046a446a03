from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.sample import disk_of, final_of, run_of
from integration.store.conftest import call
from vmbackup.core.steps import MakeDirectory, Publish
from vmbackup.errors import Failed
from vmbackup.store.directories import Directories
from vmbackup.store.space import look

Mount = Callable[[str, str], Path]


def test_read_only_location_is_a_problem_in_words(store: Directories, images: Path, mount: Mount) -> None:
    location = mount("ext4", "16M")
    call("mount", "-o", "remount,ro", location)
    (images / "vda.img").touch()
    run = run_of(location, disk_of(images / "vda.img"))
    assert f"{location} is read-only on this node" in store.observe(run).problem
    space = look(str(location), "5%")
    assert not space.ready
    assert "read-only" in space.message
    assert space.total_bytes > 0
    with pytest.raises(Failed, match="Read-only file system"):
        store.perform(run, MakeDirectory())


def test_reserve_is_a_share_of_the_file_system(store: Directories, images: Path, mount: Mount) -> None:
    location = mount("ext4", "64M")
    (images / "vda.img").touch()
    facts = store.observe(run_of(location, disk_of(images / "vda.img"), min_free="50%"))
    assert 20 << 20 < facts.reserve_bytes < 33 << 20


def test_file_system_that_turns_read_only_under_the_set_keeps_it_unpublished(
    store: Directories, images: Path, mount: Mount
) -> None:
    location = mount("ext4", "16M")
    (images / "vda.img").touch()
    run = run_of(location, disk_of(images / "vda.img"))
    store.perform(run, MakeDirectory())
    call("mount", "-o", "remount,ro", location)
    with pytest.raises(Failed):
        store.perform(run, Publish(1.0))
    facts = store.observe(run)
    assert facts.partial
    assert not facts.published
    assert facts.problem
    assert not final_of(run).exists()
