from pathlib import Path

import pytest

from fakes.sample import DOMAIN_XML, OTHER_UID, final_of, partial_of
from vmbackup.api.journal import Run
from vmbackup.core.steps import Discard, MakeDirectory
from vmbackup.errors import Failed, NotYet
from vmbackup.store.directories import Directories


def test_made_directory_holds_the_definition(store: Directories, run: Run) -> None:
    assert not store.observe(run).partial
    store.perform(run, MakeDirectory())
    assert store.observe(run).partial
    assert (partial_of(run) / "domain.xml").read_text() == DOMAIN_XML
    assert partial_of(run).stat().st_mode & 0o777 == 0o711


def test_crash_while_making_is_made_again(store: Directories, run: Run) -> None:
    partial_of(run).mkdir(parents=True)
    assert not store.observe(run).partial  # neither owner nor definition are there yet
    (partial_of(run) / ".owner").write_text(run.uid)
    assert not store.observe(run).partial
    store.perform(run, MakeDirectory())
    assert store.observe(run).partial


def test_directory_of_another_backup_is_left_alone(store: Directories, run: Run) -> None:
    store.perform(run, MakeDirectory())
    (partial_of(run) / ".owner").write_text(OTHER_UID)
    with pytest.raises(Failed, match="does not belong to this backup"):
        store.perform(run, MakeDirectory())
    with pytest.raises(Failed, match="does not belong to this backup"):
        store.perform(run, Discard())
    assert (partial_of(run) / ".owner").read_text() == OTHER_UID


def test_directory_without_owner_is_left_alone(store: Directories, run: Run) -> None:
    partial_of(run).mkdir(parents=True)
    (partial_of(run) / "photos.zip").touch()
    for step in (MakeDirectory(), Discard()):
        with pytest.raises(Failed, match="does not belong to this backup"):
            store.perform(run, step)
    assert [path.name for path in partial_of(run).iterdir()] == ["photos.zip"]


def test_hypervisor_away_while_making_heals(store: Directories, run: Run) -> None:
    def away(_run: Run) -> str:
        raise NotYet("HypervisorAway", "the daemon is away")

    with pytest.raises(Failed, match="the daemon is away") as caught:
        Directories(domain_xml=away, wake=lambda: None).perform(run, MakeDirectory())
    assert caught.value.heals
    assert not partial_of(run).exists()


def test_discard_removes_links_and_not_what_they_point_to(store: Directories, run: Run, tmp_path: Path) -> None:
    store.perform(run, MakeDirectory())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (partial_of(run) / "link").symlink_to(outside)
    (partial_of(run) / "sub").mkdir()
    (partial_of(run) / "sub" / "link").symlink_to(outside / "precious")
    store.perform(run, Discard())
    assert not partial_of(run).exists()
    assert (outside / "precious").exists()


def test_discard_twice_is_fine(store: Directories, run: Run) -> None:
    store.perform(run, MakeDirectory())
    store.perform(run, Discard())
    store.perform(run, Discard())
    assert not store.observe(run).partial


def test_discard_interrupted_by_an_error_is_still_ours_to_finish(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.perform(run, MakeDirectory())
    (partial_of(run) / "vda.img").touch()

    def refuse(_name: str, **_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("vmbackup.store.sets.os.unlink", refuse)
        with pytest.raises(Failed, match=r"Discard in .* failed: Input/output error"):
            store.perform(run, Discard())
    assert store.observe(run).partial
    store.perform(run, Discard())
    assert not partial_of(run).exists()


def test_discard_stops_at_a_depth_that_is_not_ours(store: Directories, run: Run) -> None:
    store.perform(run, MakeDirectory())
    (partial_of(run) / "/".join("abcdefghijkl")).mkdir(parents=True)
    with pytest.raises(Failed, match="nested deeper"):
        store.perform(run, Discard())


def test_published_set_is_never_discarded(store: Directories, run: Run) -> None:
    final_of(run).mkdir(parents=True)
    (final_of(run) / "vda.img").touch()
    store.perform(run, Discard())
    assert (final_of(run) / "vda.img").exists()


VARIABLES = bytes(40) + b"_FVH" + bytes(212)  # as UEFI's volumes begin


def test_nvram_is_kept_with_the_set(run: Run, tmp_path: Path) -> None:
    nvram = tmp_path / "vars.fd"
    nvram.write_bytes(VARIABLES)
    xml = f"<domain><os><nvram template='x'>{nvram}</nvram></os></domain>"
    Directories(domain_xml=lambda _run: xml, wake=lambda: None).perform(run, MakeDirectory())
    assert (partial_of(run) / "nvram.fd").read_bytes() == VARIABLES


@pytest.mark.parametrize("planted", ["link", "missing", "directory"])
def test_nvram_that_cannot_be_trusted_is_left_out(run: Run, tmp_path: Path, planted: str) -> None:
    path = tmp_path / "vars.fd"
    if planted == "link":
        path.symlink_to("/etc/hostname")
    elif planted == "directory":
        path.mkdir()
    xml = f"<domain><os><nvram>{path}</nvram></os></domain>"
    Directories(domain_xml=lambda _run: xml, wake=lambda: None).perform(run, MakeDirectory())
    assert sorted(entry.name for entry in partial_of(run).iterdir()) == [".owner", "domain.xml"]


# -- what a lost journal leaves behind --------------------------------------------------------------------------------


def left_behind(run: Run, name: str, owner: str | None = None) -> Path:
    """Make a working directory as a run of which no record is left would have made it."""
    path = partial_of(run).parent / name
    path.mkdir(parents=True)
    (path / ".owner").write_text(run.uid if owner is None else owner)
    (path / "vda.img").write_bytes(b"half")
    return path


@pytest.mark.parametrize("step", [MakeDirectory(), Discard()])
def test_unfinished_set_of_a_lost_record_goes_with_the_next_attempt(
    store: Directories, run: Run, step: MakeDirectory | Discard
) -> None:
    old = left_behind(run, f".20261122T120000Z-nightly-0f8fad5b.{run.uid}.7.partial")
    store.perform(run, step)
    assert not old.exists()
    assert store.observe(run).partial == isinstance(step, MakeDirectory)


@pytest.mark.parametrize(
    "name",
    [
        f".20261122T120000Z-nightly-7c9e6679.{OTHER_UID}.1.partial",
        "20261122T120000Z-nightly-0f8fad5b",
        ".{uid}.1.partial",
        "x.20261122T120000Z-nightly-0f8fad5b.{uid}.1.partial",
        ".20261122T120000Z-nightly-0f8fad5b.{uid}.1.partial.kept",
        ".20261122T120000Z-nightly-0f8fad5b.{uid}.partial",
    ],
)
def test_nothing_but_unfinished_sets_of_the_same_backup_goes(store: Directories, run: Run, name: str) -> None:
    other = left_behind(run, name.replace("{uid}", run.uid))
    store.perform(run, MakeDirectory())
    store.perform(run, Discard())
    assert (other / "vda.img").read_bytes() == b"half"


def test_directory_whose_owner_is_another_backup_stays_whatever_its_name_says(store: Directories, run: Run) -> None:
    other = left_behind(run, f".20261122T120000Z-nightly-0f8fad5b.{run.uid}.7.partial", OTHER_UID)
    store.perform(run, MakeDirectory())
    assert (other / "vda.img").exists()


def test_link_with_the_name_of_an_unfinished_set_is_not_followed(store: Directories, run: Run, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ".owner").write_text(run.uid)
    (theirs / "keep").touch()
    link = partial_of(run).parent / f".20261122T120000Z-nightly-0f8fad5b.{run.uid}.7.partial"
    link.parent.mkdir(parents=True)
    link.symlink_to(theirs)
    store.perform(run, MakeDirectory())
    store.perform(run, Discard())
    assert (theirs / "keep").exists()
    assert link.is_symlink()
