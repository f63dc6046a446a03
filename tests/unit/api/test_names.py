"""Overlays and working directories carry their owner: ours are found after any crash, and nobody else's is taken."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbackup.api import names

UUIDS = st.uuids().map(str)
# What libvirt takes as a target: https://libvirt.org/git/?p=libvirt.git (schemas/domaincommon.rng, diskTarget)
TARGETS = st.from_regex(r"(fd|hd|sd|vd|xvd|ubd)[a-zA-Z0-9_]{1,4}", fullmatch=True)


@given(UUIDS, st.integers(1, 1000), TARGETS)
def test_overlay_tells_its_backup(uid: str, attempt: int, target: str) -> None:
    assert names.overlay_uid(names.overlay_name(uid, attempt, target)) == uid


@given(UUIDS, st.integers(1, 9), TARGETS, UUIDS, st.integers(1, 9), TARGETS)
def test_two_overlays_never_share_a_name(
    uid: str, attempt: int, target: str, uid2: str, attempt2: int, target2: str
) -> None:
    same = (uid, attempt, target) == (uid2, attempt2, target2)
    assert (names.overlay_name(uid, attempt, target) == names.overlay_name(uid2, attempt2, target2)) is same


@pytest.mark.parametrize(
    "file_name",
    [
        "",
        "disk.qcow2",
        "vm1.snap1.overlay",
        ".vmbackup.overlay",
        ".vmbackup..1.vda.overlay",
        ".vmbackup.my.other.file.overlay",
        f".vmbackup.{UUID(int=1)}.one.vda.overlay",
        f".vmbackup.{UUID(int=1)}.1..overlay",
        f".vmbackup.{UUID(int=1)}.1.vda.overlay.old",
        f"vmbackup.{UUID(int=1)}.1.vda.overlay",
        f"x.vmbackup.{UUID(int=1)}.1.vda.overlay",
        f".vmbackup.{UUID(int=1)}.1.vda.overlay\n",
        f".vmbackup.{UUID(int=1)}/..1.vda.overlay",
    ],
)
def test_a_strangers_file_is_not_ours(file_name: str) -> None:
    assert names.overlay_uid(file_name) is None


@given(st.text() | st.lists(st.sampled_from([".", "vmbackup", "overlay", "1", "vda", "a"])).map("".join))
def test_whatever_is_taken_for_ours_could_have_been_made_by_us(file_name: str) -> None:
    uid = names.overlay_uid(file_name)
    assert uid is None or re.fullmatch(rf"\.vmbackup\.{re.escape(uid)}\.[0-9]+\.[^./]+\.overlay", file_name)


@given(UUIDS, st.integers(1, 1000), st.sampled_from(["", "/srv", "/srv/a set.1.partial"]))
def test_working_directory_tells_its_backup_its_set_and_its_location(uid: str, attempt: int, location: str) -> None:
    name = names.partial_name("20261123T120000Z-nightly-0f8fad5b", uid, attempt)
    assert names.read_partial(name) == ("", "20261123T120000Z-nightly-0f8fad5b", uid, attempt)
    found = names.read_partial(f"{location}/demo/web/{name}")
    assert found == (location, "demo/web/20261123T120000Z-nightly-0f8fad5b", uid, attempt)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/srv/demo/web",
        f"/srv/demo/web/.x.{UUID(int=1)}.1.partial/vda.qcow2",
        f"/web/.x.{UUID(int=1)}.1.partial",
        f".x.{UUID(int=1)}.one.partial",
        f"..{UUID(int=1)}.1.partial",
        f"x.{UUID(int=1)}.1.partial",
        ".x.my-own.1.partial",
    ],
)
def test_a_strangers_directory_is_not_ours(path: str) -> None:
    assert names.read_partial(path) is None
