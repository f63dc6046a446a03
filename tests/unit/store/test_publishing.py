import hashlib
import json
import os
import stat

import pytest

from fakes.sample import OTHER_UID, ended, final_of, partial_of
from vmbackup.api.journal import Quiesced, Run, SkippedDisk
from vmbackup.api.manifest import Manifest
from vmbackup.api.vmbackup import Verify
from vmbackup.core.steps import Discard, MakeDirectory, Publish, StartCopy, StartVerification
from vmbackup.errors import Failed
from vmbackup.store.directories import Directories

POINT_IN_TIME = 1_700_000_001.5


def prepared(store: Directories, run: Run, verify: Verify = Verify.CHECK) -> Run:
    """Copy and verify, and record what came of it as the spine does."""
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"verify": verify})})
    store.perform(run, MakeDirectory())
    store.perform(run, StartCopy("vda"))
    assert ended(store, run).state == "done"
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert work.state == "done"
    return run.with_disk("vda", verified=True, stored_bytes=work.stored_bytes, sha256=work.sha256)


def test_published_set_tells_what_it_is(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    run = run.model_copy(
        update={
            "skipped": (SkippedDisk(target="vdb", reason="shareable"),),
            "quiesced": Quiesced(done=True, reason="Frozen"),
        }
    )
    store.perform(run, Publish(POINT_IN_TIME))
    manifest = Manifest.model_validate_json((final_of(run) / "manifest.json").read_text())
    assert manifest.backup_uid == run.uid
    assert manifest.point_in_time == "2023-11-14T22:13:21.500Z"
    assert manifest.quiesced
    assert manifest.node == "node-1"
    assert manifest.skipped == {"vdb": "shareable"}
    assert [(disk.target, disk.file, disk.virtual_bytes) for disk in manifest.disks] == [("vda", "vda.img", 8 << 20)]
    assert manifest.disks[0].stored_bytes == run.disks[0].stored_bytes > 0
    facts = store.observe(run)
    assert facts.published
    assert not facts.partial
    assert facts.works == {}


def test_published_set_holds_nothing_else(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    store.perform(run, Publish(POINT_IN_TIME))
    assert sorted(entry.name for entry in final_of(run).iterdir()) == ["domain.xml", "manifest.json", "vda.img"]
    assert [entry.name for entry in final_of(run).parent.iterdir()] == [final_of(run).name]


def test_checksums_cover_every_file(store: Directories, run: Run) -> None:
    run = prepared(store, run, verify=Verify.CHECKSUM)
    store.perform(run, Publish(POINT_IN_TIME))
    lines = (final_of(run) / "SHA256SUMS").read_text().splitlines()
    assert {name: digest for digest, name in (line.split("  ") for line in lines)} == {
        name: hashlib.sha256((final_of(run) / name).read_bytes()).hexdigest()
        for name in ("vda.img", "domain.xml", "manifest.json")
    }


def test_set_is_not_left_in_the_hands_of_qemu(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    image = partial_of(run) / "vda.img"
    image.chmod(0o666)
    store.perform(run, Publish(POINT_IN_TIME))
    assert stat.S_IMODE((final_of(run) / "vda.img").stat().st_mode) == 0o600


def test_everything_is_on_disk_before_the_rename(store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(store, run)
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(file: int) -> None:
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    def note_rename(old: str, new: str, **where: int) -> None:
        order.append(f"{old} -> {new}")
        rename(old, new, **where)

    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr("os.rename", note_rename)
    store.perform(run, Publish(POINT_IN_TIME))
    working, final = partial_of(run).name, final_of(run).name
    assert order == [
        "vda.img",
        ".manifest.json.new",
        ".manifest.json.new -> manifest.json",
        working,
        f"{working} -> {final}",
        "vm1",
    ]


def test_crash_between_rename_and_sync_is_published_again(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(store, run)
    rename = os.rename

    def die_after(old: str, new: str, **where: int) -> None:
        rename(old, new, **where)
        if new == final_of(run).name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", die_after)
        with pytest.raises(KeyboardInterrupt):
            store.perform(run, Publish(POINT_IN_TIME))
    before = (final_of(run) / "manifest.json").read_bytes()
    store.perform(run, Publish(POINT_IN_TIME))
    assert store.observe(run).published
    assert (final_of(run) / "manifest.json").read_bytes() == before


def test_crash_before_the_rename_is_published_again(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(store, run)

    rename = os.rename

    def die_before(old: str, new: str, **where: int) -> None:
        if new == final_of(run).name:
            raise KeyboardInterrupt
        rename(old, new, **where)

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", die_before)
        with pytest.raises(KeyboardInterrupt):
            store.perform(run, Publish(POINT_IN_TIME))
    assert store.observe(run).partial  # the manifest says whose it is, now that the owner file is gone
    store.perform(run, Publish(POINT_IN_TIME))
    assert store.observe(run).published


def test_unpublished_set_with_manifest_can_be_discarded(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(store, run)

    rename = os.rename

    def refuse(old: str, new: str, **where: int) -> None:
        if new == final_of(run).name:
            raise OSError(5, "Input/output error")
        rename(old, new, **where)

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", refuse)
        with pytest.raises(Failed, match="Input/output error"):
            store.perform(run, Publish(POINT_IN_TIME))
    store.perform(run, Discard())
    assert not partial_of(run).exists()


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "not json", json.dumps({"backupUid": OTHER_UID})])
def test_final_name_of_somebody_else_is_left_alone(store: Directories, run: Run, manifest: str | None) -> None:
    run = prepared(store, run)
    final_of(run).mkdir()
    (final_of(run) / "precious").write_text("kept")
    if manifest is not None:
        (final_of(run) / "manifest.json").write_text(manifest)
    assert not store.observe(run).published
    with pytest.raises(Failed, match="exists and is not of this backup"):
        store.perform(run, Publish(POINT_IN_TIME))
    assert (final_of(run) / "precious").read_text() == "kept"
    assert store.observe(run).partial


def test_empty_directory_at_the_final_name_is_not_replaced(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    final_of(run).mkdir()
    with pytest.raises(Failed, match="exists and is not of this backup"):
        store.perform(run, Publish(POINT_IN_TIME))


def test_link_at_the_final_name_is_not_followed(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    final_of(run).symlink_to("/etc")
    with pytest.raises(Failed, match="is a link"):
        store.perform(run, Publish(POINT_IN_TIME))


def test_missing_image_is_not_published(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    (partial_of(run) / "vda.img").unlink()
    with pytest.raises(Failed, match=r"vda\.img is gone"):
        store.perform(run, Publish(POINT_IN_TIME))
    assert not final_of(run).exists()


def test_link_in_place_of_an_image_is_not_published(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    (partial_of(run) / "vda.img").unlink()
    (partial_of(run) / "vda.img").symlink_to("/etc/hostname")
    with pytest.raises(Failed, match="is a link"):
        store.perform(run, Publish(POINT_IN_TIME))


def test_removed_working_directory_is_said_so(store: Directories, run: Run) -> None:
    run = prepared(store, run)
    partial_of(run).rename(partial_of(run).parent / "elsewhere")
    with pytest.raises(Failed, match="is gone"):
        store.perform(run, Publish(POINT_IN_TIME))
