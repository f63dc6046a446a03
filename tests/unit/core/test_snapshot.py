"""Rows of the snapshot table: the snapshot, the copy and its limits. The way home is in test_homeward.py."""

from dataclasses import replace
from typing import Any

import pytest

from unit.core.scene import (
    OVERLAY,
    REBORN,
    T0,
    a_disk,
    a_domain,
    absent,
    committing,
    did,
    on_overlay,
    over,
    run_disk,
    said_no,
    store,
)
from unit.core.snapshot_run import AWAY, THERE, decided, end
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.facts import BlockJob, DomainFacts, LastAct, Wishes, Work
from vmbackup.core.steps import StartCopy, StopWorks, TakeSnapshot
from vmbackup.units import GIB, MIB

# -- the snapshot -----------------------------------------------------------------------------------------------------


def test_snapshot_is_written_down_with_the_time_before_it_is_taken() -> None:
    move = decided(Phase.SNAPSHOTTING, a_domain(), store(), began=False, overlay_at=None)
    assert move.step == TakeSnapshot((("vda", OVERLAY),))
    assert (move.run.began, move.run.point_in_time, move.run.overlay_at) == (True, T0 + 10, T0 + 10)


@pytest.mark.parametrize(
    ("domain", "overlays", "last", "changes", "where"),
    [
        (AWAY, THERE, None, {}, "Copying"),
        (AWAY, THERE, did(TakeSnapshot(()), said_no()), {}, "Copying"),
        (a_domain(), {}, did(TakeSnapshot(()), said_no()), {}, "Cleaning HypervisorError"),
        (a_domain(), {}, None, {}, "Cleaning Interrupted"),
        (a_domain(instance=REBORN), {"vda": 196_608}, None, {}, "Cleaning Interrupted"),
        (replace(AWAY, state="off"), THERE, None, {}, "Committing SnapshotFailed"),
        (a_domain(on_overlay(), a_disk(target="vdb")), THERE, None, {}, "Committing SnapshotFailed"),
        (a_domain(state="off"), {}, None, {"began": False}, "Cleaning SourceLost"),
        (a_domain(instance=REBORN), {}, None, {"began": False}, "Cleaning SourceLost"),
    ],
    ids=[
        "taken",
        "taken in spite of an error",
        "refused",
        "interrupted",
        "restarted, empty overlay",
        "off on the overlay",
        "half",
        "off before",
        "restarted before",
    ],
)
def test_snapshot_that_was_interrupted_is_judged_by_what_is_seen(
    domain: DomainFacts, overlays: dict[str, int], last: LastAct | None, changes: dict[str, Any], where: str
) -> None:
    if len(domain.disks) == 2:
        changes = {**changes, "disks": (run_disk(), run_disk(target="vdb"))}
    assert end(decided(Phase.SNAPSHOTTING, domain, store(overlay_bytes=overlays), last, **changes)) == where


def test_no_snapshot_is_taken_for_an_agent_that_ends() -> None:
    move = decided(Phase.SNAPSHOTTING, a_domain(), store(), wishes=Wishes(stopping=True), began=False)
    assert (end(move), move.step) == ("Cleaning Interrupted", None)
    assert move.run.failure is not None
    assert move.run.failure.heals


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.FREEZING])
def test_nothing_is_begun_for_an_agent_that_ends(phase: Phase) -> None:
    move = decided(phase, a_domain(guest_agent=True), store(partial=False), wishes=Wishes(stopping=True), began=False)
    assert (move.run.phase, move.run.outcome, move.step, move.wait_seconds) == (phase, None, None, 1.0)


# -- the copy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "where"),
    [
        ({"overlay_bytes": {"vda": 20 * GIB + 1}}, "OverlayLimitReached"),
        ({"overlay_bytes": {"vda": 20 * GIB}}, ""),
        ({"overlay_free_bytes": GIB // 2 - 1}, "OverlayLimitReached"),
        ({"overlay_free_bytes": GIB // 2}, ""),
        ({"overlay_free_bytes": None}, ""),
        ({"overlay_bytes": {}}, "SourceLost"),
        ({"problem": "the location is gone"}, "LocationUnusable"),
        ({"free_bytes": GIB, "reserve_bytes": GIB}, "NotEnoughSpace"),
        ({"works": {"vda": Work("copy", "failed", error="I/O error")}}, "CopyFailed"),
        ({"works": {"vda": Work("copy", "running")}}, ""),
    ],
)
def test_copy_goes_on_within_its_limits_only(seen: dict[str, Any], where: str) -> None:
    move = decided(Phase.COPYING, AWAY, store(**{"overlay_bytes": THERE, **seen}))
    assert end(move) == f"Copying {where}".strip()


@pytest.mark.parametrize(
    ("domain", "trusted"),
    [
        (AWAY, True),
        (replace(AWAY, state="off", instance=""), True),
        (replace(AWAY, instance=REBORN), True),
        (a_domain(on_overlay(job=BlockJob("copy"))), True),
        (a_domain(on_overlay(job=committing())), False),
        (a_domain(), False),
        (a_domain(a_disk(source="/images/other")), False),
        (absent(), False),
    ],
    ids=["away", "off", "restarted on it", "copied by somebody", "merged by somebody", "home", "elsewhere", "absent"],
)
def test_copy_is_trusted_while_its_base_stands_still_only(domain: DomainFacts, trusted: bool) -> None:
    assert (decided(Phase.COPYING, domain).run.outcome is None) is trusted


@pytest.mark.parametrize("seconds", [-3600.0, 1801.0])
def test_time_on_overlays_is_bounded_even_when_the_clock_was_set_back(seconds: float) -> None:
    move = decided(Phase.COPYING, AWAY, overlay_at=T0 + 10 - seconds)
    assert end(move) == "Copying OverlayLimitReached"


def test_agent_that_ends_takes_the_vm_home() -> None:
    move = decided(Phase.COPYING, AWAY, wishes=Wishes(stopping=True))
    assert move.run.failure is not None
    assert (move.run.failure.reason, move.run.failure.heals) == (Reason.INTERRUPTED, True)


@pytest.mark.parametrize(("state", "still", "stalls"), [("running", 301.0, True), ("running", 299.0, False)])
def test_copy_that_stands_still_is_given_up(state: Any, still: float, stalls: bool) -> None:
    seen = store(overlay_bytes=THERE, works={"vda": Work("copy", state)})
    assert (end(decided(Phase.COPYING, AWAY, seen, still=still)) == "Copying Stalled") is stalls


def test_copies_are_begun_one_after_the_other_and_only_what_is_not_copied() -> None:
    disks = (run_disk(copied=True), run_disk(target="vdb"))
    domain = a_domain(on_overlay(), replace(on_overlay(), target="vdb", source=disks[1].overlay, backing=()))
    assert decided(Phase.COPYING, domain, store(overlay_bytes={"vda": 1, "vdb": 1}), disks=disks).step == StartCopy(
        "vdb"
    )


def test_verification_that_is_left_over_is_not_taken_for_a_copy() -> None:
    seen = store(overlay_bytes=THERE, works={"vda": Work("verify", "done")})
    assert decided(Phase.COPYING, AWAY, seen).step == StartCopy("vda")


def test_copies_are_stopped_before_the_base_is_written() -> None:
    seen = store(overlay_bytes=THERE, works={"vda": Work("copy", "running")})
    for phase in (Phase.COPYING, Phase.COMMITTING):
        assert decided(phase, AWAY, seen, **over()).step == StopWorks()


def test_room_for_overlays_is_looked_at_before_the_guest_is_frozen() -> None:
    move = decided(Phase.PREPARING, a_domain(), store(overlay_free_bytes=100 * MIB), began=False)
    assert (end(move), move.run.outcome) == ("Discarding NotEnoughSpace", Outcome.REFUSED)
