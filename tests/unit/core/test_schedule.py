"""When a schedule runs: restarts, late starts, jumps of the clock, triggers, names."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.objects import host, vm
from vmbackup.api.schedule import VMBackupSchedule, VMSelector
from vmbackup.core.kstatus import epoch
from vmbackup.core.schedule import Plan, child_name, covered, jitter, missed_words, plan, seen_vms
from vmbackup.core.schedule_report import remembered

CREATED = "2026-09-21T14:13:20Z"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def at(text: str) -> float:
    return epoch(f"2026-09-{text}Z")


def schedule(status: dict[str, Any] | None = None, **spec: Any) -> VMBackupSchedule:
    """Return a schedule of half past two each night, made on the afternoon of the 21st."""
    metadata = {"name": "nightly", "namespace": "team-a", "uid": "uid-1", "creationTimestamp": CREATED}
    full = {"schedule": "30 2 * * *", "vms": {"names": ["web"]}, "template": {"spec": {"location": "store"}}} | spec
    return VMBackupSchedule.parse({"metadata": metadata, "spec": full, "status": status or {}})


def after(one: VMBackupSchedule, done: Plan, **spec: Any) -> VMBackupSchedule:
    """Return the schedule as it stands after the plan was carried out."""
    status = one.status.model_copy(update=remembered(one, done))
    changed = one.spec.model_validate(one.spec.model_dump(by_alias=True) | spec)
    return one.model_copy(update={"status": status, "spec": changed})


def marks(done: Plan) -> list[str]:
    return [run.mark for run in done.runs]


def minutes(time: float) -> str:
    return str(int(time // 60))


def test_nothing_before_its_time_then_once() -> None:
    one = schedule()
    early = plan(one, at("22T02:29:59"))
    assert (early.runs, early.missed, early.next_at) == ((), None, at("22T02:30:00"))
    due = plan(one, at("22T02:30:00"))
    assert marks(due) == [minutes(at("22T02:30:00"))]
    again = plan(after(one, due), at("22T02:30:01"))
    assert (again.runs, again.next_at) == ((), at("23T02:30:00"))


def test_a_schedule_does_not_run_for_the_time_before_it_was_made() -> None:
    assert plan(schedule(schedule="0 14 * * *"), at("21T14:20:00")).runs == ()


def test_two_controllers_and_a_crash_before_the_status_make_the_same_run() -> None:
    one = schedule()
    assert plan(one, at("22T02:30:00")).runs == plan(one, at("22T02:31:40")).runs


def test_of_many_missed_runs_the_last_is_made_up_for_and_the_others_are_told() -> None:
    done = plan(schedule(), at("25T09:00:00"))
    assert marks(done) == [minutes(at("25T02:30:00"))]
    assert done.missed is not None
    assert (done.missed.count, done.missed.last) == (3, at("24T02:30:00"))
    assert "3 run(s) up to 2026-09-24T02:30:00Z were missed" in missed_words(done.missed)
    assert plan(after(schedule(), done), at("25T09:00:01")).missed is None


def test_too_late_is_left_out_and_told_once() -> None:
    one = schedule(startingDeadlineSeconds=600)
    assert marks(plan(one, at("22T02:40:00"))) == [minutes(at("22T02:30:00"))]
    late = plan(one, at("22T02:40:01"))
    assert (late.runs, late.next_at) == ((), at("23T02:30:00"))
    assert late.missed is not None
    assert late.missed.too_late
    told = after(one, late)
    assert plan(told, at("22T02:40:02")).missed is None
    assert told.status.missed_runs == 1
    assert told.status.last_schedule_time is None


def test_a_month_of_missed_minutes_is_counted_roughly_and_not_piled_up() -> None:
    done = plan(schedule(schedule="* * * * *"), at("21T14:13:20") + 30 * DAY)
    assert len(done.runs) == 1
    assert done.missed is not None
    assert "at least 100 run(s)" in missed_words(done.missed)


def test_suspended_time_is_not_made_up_for() -> None:
    one = schedule(suspend=True)
    asleep = plan(one, at("23T12:00:00"))
    assert (asleep.runs, asleep.next_at) == ((), None)
    awake = after(one, asleep, suspend=False)
    done = plan(awake, at("23T12:00:01"))
    assert (done.runs, done.missed, done.next_at) == ((), None, at("24T02:30:00"))


def test_a_changed_schedule_does_not_run_for_times_that_it_did_not_have() -> None:
    one = schedule()
    changed = after(one, plan(one, at("22T02:30:00")), schedule="0 * * * *")
    done = plan(changed, at("22T09:10:00"))
    assert (done.runs, done.missed, done.next_at) == ((), None, at("22T10:00:00"))


def test_a_clock_a_little_back_runs_nothing_twice() -> None:
    one = schedule()
    done = after(one, plan(one, at("22T02:30:00")))
    back = plan(done, at("22T02:29:30"))
    assert (back.runs, back.jumped, back.next_at) == ((), False, at("23T02:30:00"))
    assert plan(done, at("22T02:30:30")).runs == ()


def test_a_clock_far_back_does_not_stop_the_schedule_for_years() -> None:
    one = schedule()
    future = after(one, plan(one, at("22T02:30:00") + 3650 * DAY))
    back = plan(future, at("22T12:00:00"))
    assert back.jumped
    healed = after(future, back)
    assert not plan(healed, at("22T12:00:01")).jumped
    assert marks(plan(healed, at("23T02:30:00"))) == [minutes(at("23T02:30:00"))]


def test_jitter_moves_the_start_and_not_the_name() -> None:
    offset = jitter("uid-1", 600)
    assert 0 < offset <= 600
    assert jitter("uid-1", 600) == offset != jitter("uid-2", 600)
    one = schedule(jitterSeconds=600)
    assert plan(one, at("22T02:30:00") + offset - 1).runs == ()
    assert plan(one, at("22T02:00:00")).next_at == at("22T02:30:00") + offset
    assert marks(plan(one, at("22T02:30:00") + offset)) == [minutes(at("22T02:30:00"))]


def test_a_trigger_runs_once_for_each_new_value_also_while_suspended() -> None:
    one = schedule(suspend=True, trigger="one")
    done = plan(one, at("21T15:00:00"))
    assert [run.trigger for run in done.runs] == ["one"]
    served = after(one, done)
    assert served.status.last_trigger == "one"
    assert plan(served, at("21T15:00:01")).runs == ()
    again = plan(after(one, done, trigger="two"), at("21T15:00:02"))
    assert marks(again) != marks(done)
    assert plan(after(one, done, trigger=""), at("21T15:00:02")).runs == ()


def test_a_trigger_beside_a_time_that_is_due_makes_both_runs() -> None:
    done = plan(schedule(trigger="now"), at("22T02:30:00"))
    assert [run.at is None for run in done.runs] == [True, False]
    assert remembered(schedule(trigger="now"), done)["last_schedule_time"] == "2026-09-22T02:30:00Z"


@given(
    st.lists(st.one_of(st.floats(0, 3 * HOUR), st.floats(-2 * HOUR, 40 * DAY)), max_size=40),
    st.sampled_from(["* * * * *", "30 2 * * *", "0 */6 * * *", "0 0 1 * *"]),
    st.sampled_from([None, 60, 7200]),
    st.integers(0, 900),
)
def test_whatever_the_clock_does_no_run_is_made_twice(
    steps: list[float], expression: str, deadline: int | None, jitter_seconds: int
) -> None:
    one = schedule(schedule=expression, startingDeadlineSeconds=deadline, jitterSeconds=jitter_seconds, timeZone="UTC")
    now, seen, latest = at("21T15:00:00"), set[str](), 0.0
    for step in steps:
        now += step
        done = plan(one, now)
        assert len(done.runs) <= 1
        for run in done.runs:
            assert run.at is not None
            assert run.at <= now
            assert deadline is None or now - run.at - jitter("uid-1", jitter_seconds) <= deadline
            # Only a clock that went back by more than an hour may make a time come again: then the name collides.
            assert run.mark not in seen or now < latest - HOUR or done.jumped or run.at <= latest
            seen.add(run.mark)
        assert done.next_at is None or done.next_at > now - jitter_seconds - HOUR
        latest = max(latest, now)
        one = after(one, done)


def test_names_are_short_valid_and_distinct() -> None:
    longest = "s" * 40
    names = {child_name(longest, name, "run-12345678") for name in ("web", "Web", "web_", "w" * 180, "w" * 179)}
    names |= {child_name("nightly", name, "29829030") for name in ("web", "Web", "web.1", "web-1", "9" * 60)}
    assert len(names) == 10
    for name in names:
        assert len(name) <= 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert child_name("nightly", "web", "29829030") == "nightly-web-29829030"
    assert child_name("a", "b-c", "1") == child_name("a-b", "c", "1")
    assert child_name("a", "b-c", "1", plain=False) != child_name("a-b", "c", "1", plain=False)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"match": ["web-*"]}, ("web-1", "web-2")),
        ({"match": ["*"], "exclude": ["web-?"]}, ("db",)),
        ({"match": ["w*", "d*"], "exclude": ["web-1"]}, ("db", "web-2")),
        ({"names": ["gone", "db"]}, ("gone", "db")),
        ({"match": ["nothing"]}, ()),
    ],
)
def test_vms_are_those_of_the_namespace_that_match(selector: dict[str, Any], expected: tuple[str, ...]) -> None:
    hosts = (
        host("n1", vm("web-1", 1), vm("db", 2), vm("web-9", 3, namespace="team-b"), vm("x", 4, namespace="")),
        host("n2", vm("web-2", 5), vm("db", 2)),
    )
    assert covered(VMSelector.model_validate(selector), seen_vms(hosts)["team-a"]) == expected
