"""Conditions as `kubectl wait`, Helm and Argo CD read them: one per type, and a time that tells since when."""

from hypothesis import given
from hypothesis import strategies as st

from vmbackup.api.conditions import Condition, ConditionType, Reason, drop, find, put

STATUSES = ("True", "False", "Unknown")


def condition(
    type_: str = "Ready", status: str = "False", time: str = "2026-01-01T00:00:00Z", **rest: str
) -> Condition:
    return Condition(type=type_, status=status, reason=rest.pop("reason", "Queued"), last_transition_time=time, **rest)


def test_first_condition_of_a_type_comes_last_and_disturbs_no_other() -> None:
    ready = condition()
    reconciling = condition("Reconciling", "True")
    assert put((ready,), reconciling) == (ready, reconciling)


def test_new_message_keeps_the_transition_time() -> None:
    old = condition(message="waits for its turn", time="2026-01-01T00:00:00Z")
    new = condition(message="copies", reason="Running", time="2026-01-02T00:00:00Z")
    (result,) = put((old,), new)
    assert (result.message, result.reason) == ("copies", "Running")
    assert result.last_transition_time == "2026-01-01T00:00:00Z"


def test_new_status_moves_the_transition_time() -> None:
    (result,) = put((condition(status="False"),), condition(status="True", time="2026-01-02T00:00:00Z"))
    assert (result.status, result.last_transition_time) == ("True", "2026-01-02T00:00:00Z")


def test_condition_keeps_its_place_when_it_changes() -> None:
    before = (condition("Ready"), condition("Succeeded", "Unknown"), condition("Verified"))
    after = put(before, condition("Succeeded", "True"))
    assert [each.type for each in after] == ["Ready", "Succeeded", "Verified"]


def test_drop_removes_one_type_and_bears_its_absence() -> None:
    conditions = (condition("Ready"), condition("Stalled", "True"))
    assert drop(conditions, ConditionType.STALLED) == conditions[:1]
    assert drop(conditions, ConditionType.VERIFIED) == conditions


def test_find_tells_absent_from_false() -> None:
    conditions = (condition("Quiesced", "False"),)
    assert find(conditions, ConditionType.QUIESCED) == conditions[0]
    assert find(conditions, ConditionType.VERIFIED) is None


def test_reasons_are_accepted_by_the_api_server() -> None:
    # metav1.Condition: https://kubernetes.io/docs/reference/generated/kubernetes-api (reason is a CamelCase word)
    assert all(reason.isalpha() and reason[0].isupper() and len(reason) <= 64 for reason in Reason)


@given(st.lists(st.tuples(st.sampled_from(list(ConditionType)), st.sampled_from(STATUSES), st.integers(0, 9))))
def test_any_history_ends_with_one_condition_per_type_dated_by_its_last_change(
    history: list[tuple[ConditionType, str, int]],
) -> None:
    conditions: tuple[Condition, ...] = ()
    since: dict[str, tuple[str, str]] = {}
    for number, (type_, status, tick) in enumerate(history):
        time = f"2026-01-{number % 28 + 1:02d}T00:00:0{tick}Z"
        conditions = put(conditions, condition(type_, status, time))
        if since.get(type_, ("", ""))[0] != status:
            since[type_] = (status, time)
    assert {each.type: (each.status, each.last_transition_time) for each in conditions} == since
    assert len(conditions) == len(since)
