"""Whose turn it is, and what those are told whose turn it is not."""

from collections.abc import Collection, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.objects import T0, backup, bound, host, location, vm
from vmbackup.api.conditions import Reason
from vmbackup.api.host import VMHost
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.vmbackup import VMBackup
from vmbackup.core.kstatus import epoch
from vmbackup.core.turns import Abandon, Bind, Limits, Lost, Refuse, Scene, Turn, Wait, plan_turns

WEB_ON_N1 = [host("n1", vm("web", 1), vm("db", 2), vm("mail", 3), vm("dns", 4))]
LIMITS = Limits(per_node=2, grace_seconds=60)
LATE = T0 + 10_000


def plan(
    *backups: VMBackup,
    hosts: Sequence[VMHost] = WEB_ON_N1,
    locations: Sequence[VMBackupLocation] = (location(),),
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
    live: Collection[str] = ("n1", "n2", "n3"),
    limits: Limits = LIMITS,
    missing_since: Mapping[str, float] | None = None,
    now: float = T0 + 1,
) -> list[Turn]:
    scene = Scene(
        backups=backups,
        hosts={one.metadata.name: one for one in hosts},
        locations={one.metadata.name: one for one in locations},
        namespaces={"team-a": {}, "team-b": {}} if namespaces is None else namespaces,
        live_nodes=live,
        missing_since=missing_since or {},
    )
    return plan_turns(scene, limits, now)


def only(turns: list[Turn]) -> Turn:
    (turn,) = turns
    return turn


def born(name: str, second: int, **parts: object) -> VMBackup:
    return backup(name, metadata={"creationTimestamp": f"2026-09-21T14:13:{second:02d}Z"}, **parts)


def test_a_running_vm_and_a_free_node_bind_at_once() -> None:
    turn = only(plan(backup()))
    assert isinstance(turn, Bind)
    assert turn.node == "n1"


def test_two_backups_of_one_vm_run_one_after_the_other() -> None:
    first, second = plan(born("second", 9), born("first", 2))
    assert (first.backup.metadata.name, type(first)) == ("first", Bind)
    assert isinstance(second, Wait)
    assert second.reason is Reason.QUEUED
    assert "web" in second.message
    assert "first" in second.message


def test_a_backup_of_a_vm_that_is_being_backed_up_waits() -> None:
    turn = only(plan(bound("running", "n1"), backup("next")))
    assert isinstance(turn, Wait)
    assert "running" in turn.message


def test_a_running_backup_of_a_vm_that_its_node_no_longer_lists_still_takes_a_place() -> None:
    turns = plan(bound("running", "n1", vm="gone"), backup(), backup("b2", vm="db"), limits=Limits(per_node=1))
    assert all(isinstance(turn, Wait) for turn in turns)


def test_the_node_takes_two_and_the_oldest_first() -> None:
    backups = [born("d", 4, vm="dns"), born("a", 1, vm="web"), born("c", 3, vm="mail"), born("b", 2, vm="db")]
    turns = {turn.backup.metadata.name: turn for turn in plan(*backups)}
    assert isinstance(turns["a"], Bind)
    assert isinstance(turns["b"], Bind)
    assert isinstance(turns["c"], Wait)
    assert turns["c"].message == "Waiting for 2 older backups on node n1, 2 at a time."
    assert isinstance(turns["d"], Wait)
    assert turns["d"].message == "Waiting for 3 older backups on node n1, 2 at a time."


def test_a_full_location_is_waited_for_while_others_pass() -> None:
    places = [location("slow", maxConcurrent=1), location("fast")]
    to_slow, to_fast = {"location": "slow"}, {"location": "fast"}
    backups = [born("a", 1, spec=to_slow), born("b", 2, vm="db", spec=to_slow), born("c", 3, vm="mail", spec=to_fast)]
    first, second, third = plan(*backups, locations=places)
    assert isinstance(first, Bind)
    assert isinstance(second, Wait)
    assert second.message == "Waiting for 1 older backup to location slow, 1 at a time."
    assert isinstance(third, Bind)


def test_a_long_queue_is_told_roughly_so_that_it_is_not_rewritten_at_every_end() -> None:
    vms = [vm(f"vm{number}", number) for number in range(200)]
    backups = [born(f"b{number:03}", 1, vm=f"vm{number}") for number in range(200)]
    messages = {turn.message for turn in plan(*backups, hosts=[host("n1", *vms)]) if isinstance(turn, Wait)}
    assert len(messages) < 15
    assert "Waiting for more than 100 older backups on node n1, 2 at a time." in messages


def test_an_unknown_vm_is_waited_for_a_minute_and_then_refused() -> None:
    wanted = backup(vm="nosuch")
    waits = only(plan(wanted))
    assert isinstance(waits, Wait)
    assert waits.reason is Reason.WAITING_FOR_VM
    since = {wanted.metadata.uid: T0}
    assert isinstance(only(plan(wanted, missing_since=since, now=T0 + 59)), Wait)
    refusal = only(plan(wanted, missing_since=since, now=T0 + 60))
    assert isinstance(refusal, Refuse)
    assert refusal.reason is Reason.VM_NOT_FOUND


def test_a_vm_that_was_missed_only_now_gets_the_grace_however_old_the_backup_is() -> None:
    """While a VM migrates, no node may list it for a moment."""
    assert isinstance(only(plan(backup(vm="nosuch"), now=LATE)), Wait)


def test_a_vm_of_another_namespace_looks_like_one_that_is_not_there() -> None:
    foreign = [host("n1", vm("secret", 1, namespace="team-b"))]
    for age in (1, 100):
        since = {"uid-team-a-b1": T0}
        hidden = only(plan(backup(vm="secret"), hosts=foreign, now=T0 + age, missing_since=since))
        absent = only(plan(backup(vm="secret"), hosts=[host("n1")], now=T0 + age, missing_since=since))
        assert hidden == absent


def test_unclaimed_vms_are_reached_by_nobody() -> None:
    unclaimed = [host("n1", vm("web", 1, namespace=""))]
    assert isinstance(only(plan(backup(), hosts=unclaimed)), Wait)


def test_one_name_on_two_nodes_is_refused_with_their_names() -> None:
    hosts = [host("n1", vm(number=1)), host("n2", vm(number=2))]
    turn = only(plan(backup(), hosts=hosts))
    assert isinstance(turn, Refuse)
    assert turn.reason is Reason.VM_AMBIGUOUS
    assert "n1, n2" in turn.message
    assert "source.node" in turn.message
    chosen = only(plan(backup(node="n2"), hosts=hosts))
    assert isinstance(chosen, Bind)
    assert chosen.node == "n2"


def test_one_name_for_two_domains_of_a_node_is_refused_with_the_domains() -> None:
    twin = vm(number=2).model_copy(update={"domain": "web"})
    turn = only(plan(backup(), hosts=[host("n1", vm(number=1), twin)]))
    assert isinstance(turn, Refuse)
    assert "team-a_web" in turn.message


def test_a_migrated_vm_is_taken_where_it_runs() -> None:
    hosts = [host("n1", vm(running=False)), host("n2", vm(running=True))]
    turn = only(plan(backup(), hosts=hosts))
    assert isinstance(turn, Bind)
    assert turn.node == "n2"


def test_a_vm_that_was_restarted_elsewhere_is_taken_from_the_live_node() -> None:
    turn = only(plan(backup(), hosts=[host("dead", vm()), host("n2", vm())], live=["n2"]))
    assert isinstance(turn, Bind)
    assert turn.node == "n2"


def test_a_vm_that_runs_on_two_live_nodes_at_once_is_not_touched() -> None:
    turn = only(plan(backup(), hosts=[host("n1", vm()), host("n2", vm())]))
    assert isinstance(turn, Wait)
    assert "n1, n2" in turn.message


@pytest.mark.parametrize(
    ("hosts", "live", "reason"),
    [
        ([host("n1", vm(running=False))], ["n1"], Reason.VM_NOT_RUNNING),
        ([host("n1", vm())], [], Reason.NODE_LOST),
    ],
)
def test_a_vm_that_is_off_or_unreachable_is_waited_for_until_the_deadline(
    hosts: list[VMHost], live: list[str], reason: Reason
) -> None:
    wanted = backup(spec={"deadlineSeconds": 100})
    waits = only(plan(wanted, hosts=hosts, live=live, now=T0 + 99))
    assert isinstance(waits, Wait)
    assert waits.reason is reason
    refusal = only(plan(wanted, hosts=hosts, live=live, now=T0 + 100))
    assert isinstance(refusal, Refuse)
    assert refusal.reason is Reason.DEADLINE_EXCEEDED


def test_a_named_node_whose_agent_is_silent_is_waited_for() -> None:
    turn = only(plan(backup(node="n9"), hosts=[host("n1", vm())]))
    assert isinstance(turn, Wait)
    assert turn.reason is Reason.NODE_LOST
    assert "n9" in turn.message


def test_an_unknown_location_is_waited_for_and_then_refused() -> None:
    assert isinstance(only(plan(backup(), locations=[])), Wait)
    refusal = only(plan(backup(), locations=[], missing_since={"uid-team-a-b1": T0}, now=T0 + 61))
    assert isinstance(refusal, Refuse)
    assert refusal.reason is Reason.LOCATION_NOT_FOUND


@pytest.mark.parametrize(
    ("selector", "labels", "admitted"),
    [
        ({"names": ["team-a"]}, {}, True),
        ({"names": ["*"]}, {}, True),
        ({"names": ["team-b"]}, {}, False),
        ({}, {"tier": "gold"}, False),
        ({"matchLabels": {"tier": "gold"}}, {"tier": "gold", "other": "x"}, True),
        ({"matchLabels": {"tier": "gold", "site": "a"}}, {"tier": "gold"}, False),
        ({"matchLabels": {"tier": ""}}, {}, False),
    ],
)
def test_a_location_admits_only_the_namespaces_that_it_names(
    selector: dict[str, object], labels: dict[str, str], admitted: bool
) -> None:
    turn = only(plan(backup(), locations=[location(allowedNamespaces=selector)], namespaces={"team-a": labels}))
    if admitted:
        assert isinstance(turn, Bind)
    else:
        assert isinstance(turn, Refuse)
        assert turn.reason is Reason.LOCATION_NOT_ALLOWED


def test_the_labels_of_a_brand_new_namespace_are_waited_for() -> None:
    by_label = [location(allowedNamespaces={"matchLabels": {"tier": "gold"}})]
    assert isinstance(only(plan(backup(), locations=by_label, namespaces={})), Wait)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"spec": {"cancel": True}}, Reason.CANCELLED),
        ({"metadata": {"deletionTimestamp": "2026-09-21T14:14:00Z"}}, Reason.DELETED),
    ],
)
def test_what_is_withdrawn_before_its_turn_ends_at_once(parts: dict[str, object], reason: Reason) -> None:
    turn = only(plan(backup(vm="nosuch", **parts), locations=[]))
    assert isinstance(turn, Refuse)
    assert turn.reason is reason


def test_a_backup_on_a_silent_node_is_lost_but_stays_bound() -> None:
    turns = plan(bound("b1", "n9"), hosts=[host("n1", vm()), host("n9", vm())])
    (turn,) = turns
    assert isinstance(turn, Lost)
    assert "n9" in turn.message


def test_the_vm_of_a_lost_backup_is_not_backed_up_elsewhere_by_a_younger_one() -> None:
    """The VM was started again on n2, perhaps from an overlay that only n9's agent knows."""
    turns = plan(bound("lost", "n9"), backup("next"), hosts=[host("n9", vm()), host("n2", vm())], live=["n2"])
    assert [type(turn) for turn in turns] == [Lost, Wait]


def test_finished_backups_take_no_place_and_get_no_turn() -> None:
    over = backup("over", status={"node": "n1", "phase": "Done", "outcome": "Succeeded"})
    turn = only(plan(over, backup("next"), limits=Limits(per_node=1)))
    assert isinstance(turn, Bind)
    assert turn.backup.metadata.name == "next"


VMS = [f"vm{number}" for number in range(6)]
NODES = [
    host(f"n{node}", *(vm(name, index) for index, name in enumerate(VMS) if index % 3 == node - 1))
    for node in (1, 2, 3)
]


@given(
    wanted=st.lists(st.tuples(st.sampled_from(VMS), st.sampled_from(["x", "y"]), st.integers(0, 59)), max_size=25),
    per_node=st.integers(1, 3),
    there=st.integers(1, 4),
)
def test_the_limits_hold_and_nobody_is_forgotten(wanted: list[tuple[str, str, int]], per_node: int, there: int) -> None:
    places = [location("x", maxConcurrent=there), location("y", maxConcurrent=there)]
    waiting = [
        born(f"b{index:02}", second, vm=name, spec={"location": place})
        for index, (name, place, second) in enumerate(wanted)
    ]
    running: list[VMBackup] = []
    rounds = 0
    while waiting:
        turns = plan(*waiting, hosts=NODES, locations=places, limits=Limits(per_node=per_node))
        assert len(turns) == len(waiting)
        running = [turn.backup for turn in turns if isinstance(turn, Bind)]
        assert running, "a queue that does not move"
        on_nodes = [turn.node for turn in turns if isinstance(turn, Bind)]
        assert all(on_nodes.count(node) <= per_node for node in on_nodes)
        at = [one.spec.location for one in running]
        assert all(at.count(place) <= there for place in at)
        vms = [one.spec.source.name for one in running]
        assert len(vms) == len(set(vms))
        oldest = min(waiting, key=lambda one: (one.metadata.creation_timestamp, one.key))
        assert oldest in running
        waiting = [one for one in waiting if one not in running]
        rounds += 1
    assert rounds <= len(wanted)


def test_a_deleted_backup_whose_node_never_comes_back_is_let_go_and_says_what_may_be_left() -> None:
    gone = {"metadata": {"deletionTimestamp": "2026-09-21T14:14:00Z"}}
    deleted_at = epoch("2026-09-21T14:14:00Z")
    scene = Scene([bound("b1", "n9", **gone)], {"n1": host("n1", vm())}, {}, {}, {"n1"})
    (early,) = plan_turns(scene, Limits(abandon_seconds=600), deleted_at + 599)
    assert isinstance(early, Lost)
    (late,) = plan_turns(scene, Limits(abandon_seconds=600), deleted_at + 600)
    assert isinstance(late, Abandon)
    assert "n9" in late.message
    assert "overlay" in late.message


def test_a_deleted_backup_on_a_live_node_is_never_let_go_before_its_agent_is_done() -> None:
    gone = {"metadata": {"deletionTimestamp": "2026-09-21T14:14:00Z"}}
    scene = Scene([bound("b1", "n1", **gone)], {"n1": host("n1", vm())}, {}, {}, {"n1"})
    assert plan_turns(scene, Limits(), epoch("2026-09-21T14:14:00Z") + 10**6) == []
