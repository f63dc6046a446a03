"""What the spine relies on: the same on the fake store of the walk tests and on the real one."""

from pathlib import Path

import pytest

from fakes.sample import DOMAIN_XML, OTHER_UID, UID, disk_of, ended, run_of
from fakes.store import FakeStore
from vmbackup.api import names
from vmbackup.api.journal import Run
from vmbackup.core.ports import Store
from vmbackup.core.steps import (
    Discard,
    MakeDirectory,
    Publish,
    RemoveOverlay,
    StartCopy,
    StartVerification,
    StopWorks,
)
from vmbackup.errors import Failed
from vmbackup.store.directories import Directories


@pytest.fixture(params=["fake", "real"])
def store(request: pytest.FixtureRequest, run: Run) -> Store:
    if request.param == "real":
        return Directories(domain_xml=lambda _run: DOMAIN_XML, wake=lambda: None)
    overlays = {disk.overlay: 4096 for disk in run.disks if disk.overlay}
    return FakeStore(files={disk.source: disk.allocated_bytes for disk in run.disks} | overlays)


@pytest.fixture
def run(location: Path, source: Path) -> Run:
    overlay = source.parent / names.overlay_name(UID, 1, "vda")
    overlay.write_bytes(b"x" * 4096)
    return run_of(location, disk_of(source, allocated_bytes=1 << 20, overlay=str(overlay)), min_free="0")


def finished(store: Store, run: Run) -> Run:
    store.perform(run, MakeDirectory())
    store.perform(run, StartCopy("vda"))
    assert ended(store, run).state == "done"
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert (work.kind, work.state) == ("verify", "done")
    assert work.stored_bytes > 0
    return run.with_disk("vda", stored_bytes=work.stored_bytes)


def test_nothing_is_there_at_first(store: Store, run: Run) -> None:
    facts = store.observe(run)
    assert (facts.problem, facts.partial, facts.published, dict(facts.works)) == ("", False, False, {})
    assert facts.free_bytes > facts.reserve_bytes


def test_directory_is_made_once_or_twice(store: Store, run: Run) -> None:
    store.perform(run, MakeDirectory())
    store.perform(run, MakeDirectory())
    assert store.observe(run).partial


def test_set_is_published_once_or_twice(store: Store, run: Run) -> None:
    run = finished(store, run)
    store.perform(run, Publish(1.0))
    store.perform(run, Publish(1.0))
    facts = store.observe(run)
    assert (facts.partial, facts.published, dict(facts.works)) == (False, True, {})


def test_set_of_another_backup_is_in_the_way(store: Store, run: Run) -> None:
    store.perform(finished(store, run), Publish(1.0))
    other = finished(store, run.model_copy(update={"uid": OTHER_UID}))
    with pytest.raises(Failed):
        store.perform(other, Publish(1.0))
    assert store.observe(run).published
    assert not store.observe(other).published


def test_discard_takes_the_works_along_and_may_be_repeated(store: Store, run: Run) -> None:
    run = finished(store, run)
    store.perform(run, Discard())
    store.perform(run, Discard())
    facts = store.observe(run)
    assert (facts.partial, facts.published, dict(facts.works)) == (False, False, {})


def test_nothing_to_publish_is_an_error(store: Store, run: Run) -> None:
    with pytest.raises(Failed):
        store.perform(run, Publish(1.0))


def test_next_attempt_starts_afresh(store: Store, run: Run) -> None:
    run = finished(store, run)
    facts = store.observe(run.model_copy(update={"attempt": 2}))
    assert (facts.partial, dict(facts.works)) == (False, {})


def test_stopped_works_are_forgotten(store: Store, run: Run) -> None:
    store.perform(run, MakeDirectory())
    store.perform(run, StartCopy("vda"))
    store.perform(run, StopWorks())
    store.perform(run, StopWorks())
    assert dict(store.observe(run).works) == {}


@pytest.mark.parametrize("step", [StartCopy("vda"), StartVerification("vda")])
def test_work_without_a_directory_fails_in_words(store: Store, run: Run, step: StartCopy | StartVerification) -> None:
    store.perform(run, step)
    work = ended(store, run)
    assert work.state == "failed"
    assert "No such file or directory" in work.error


def test_overlay_is_removed_once_or_twice(store: Store, run: Run) -> None:
    assert dict(store.observe(run).overlay_bytes) == {"vda": 4096}
    store.perform(run, RemoveOverlay("vda"))
    store.perform(run, RemoveOverlay("vda"))
    assert dict(store.observe(run).overlay_bytes) == {}


def test_file_that_is_no_overlay_of_ours_stays(store: Store, run: Run) -> None:
    with pytest.raises(Failed):
        store.perform(run.with_disk("vda", overlay=run.disks[0].source), RemoveOverlay("vda"))
