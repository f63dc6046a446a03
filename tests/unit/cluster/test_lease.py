"""One leads, the other takes over; other machines' clocks decide nothing."""

import itertools
from collections.abc import Iterator
from typing import Any, cast

import pytest

from fakes.apiserver import FakeApiServer, failing
from fakes.waiting import eventually
from vmbackup.cluster import heartbeat, lease
from vmbackup.cluster.client import Client
from vmbackup.cluster.heartbeat import Heartbeat, NodeWatch
from vmbackup.cluster.lease import Election, Terms
from vmbackup.cluster.resources import LEASE, Resources

PATH = LEASE.path("vmbackup-controller", "system")
QUICK = Terms(duration=1, renew_deadline=0.1, retry=0.01)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


def resources(server: FakeApiServer) -> Resources:
    return Resources(cast(Client, server))


@pytest.fixture
def elections(server: FakeApiServer) -> Iterator[Any]:
    made: list[Election] = []

    def elect(name: str, lost: list[str]) -> Election:
        election = Election(resources(server), "system", name, lambda: lost.append(name), QUICK)
        made.append(election)
        election.start()
        return election

    yield elect
    for election in made:
        election.stop()


def test_only_one_of_two_leads(server: FakeApiServer, elections: Any) -> None:
    first = elections("first", [])
    eventually(lambda: first.leading)
    second = elections("second", [])
    seen = itertools.count()
    eventually(lambda: next(seen) > 20)
    assert not second.leading
    assert server.objects[PATH]["spec"]["holderIdentity"] == "first"


def test_who_steps_down_is_followed_at_once(server: FakeApiServer, elections: Any) -> None:
    first = elections("first", [])
    eventually(lambda: first.leading)
    second = elections("second", [])
    first.stop()
    eventually(lambda: second.leading)
    assert server.objects[PATH]["spec"]["leaseTransitions"] == 1


def test_who_dies_is_followed_when_the_lease_is_over(server: FakeApiServer, elections: Any) -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 0.2, "renewTime": "2099-01-01T00:00:00.000000Z"}
    server.put(PATH, {"metadata": {"name": "vmbackup-controller"}, "spec": spec})
    follower = elections("follower", [])
    assert not follower.leading
    eventually(lambda: follower.leading, "a renewal in the future is only another machine's clock")


def test_who_cannot_renew_is_told_once_that_the_lead_is_lost(server: FakeApiServer, elections: Any) -> None:
    lost: list[str] = []
    leader = elections("leader", lost)
    eventually(lambda: leader.leading)
    server.trouble = failing(10_000)
    eventually(lambda: lost)
    assert not leader.leading
    assert lost == ["leader"]


def test_a_short_absence_of_the_api_server_costs_no_lead(server: FakeApiServer, elections: Any) -> None:
    lost: list[str] = []
    leader = elections("leader", lost)
    eventually(lambda: leader.leading)
    server.trouble = failing(2)
    before = len(server.calls)
    eventually(lambda: len(server.calls) > before + 4)
    assert leader.leading
    assert not lost


def test_an_unforeseen_fault_does_not_leave_a_leader_who_never_renews(server: FakeApiServer, elections: Any) -> None:
    lost: list[str] = []
    leader = elections("leader", lost)
    eventually(lambda: leader.leading)
    server.trouble = failing(10_000, cast(Any, RuntimeError("a fault of ours")))
    eventually(lambda: lost)
    assert not leader.leading


def test_a_thief_is_noticed(server: FakeApiServer, elections: Any) -> None:
    lost: list[str] = []
    leader = elections("leader", lost)
    eventually(lambda: leader.leading)
    server.change(PATH, spec={"holderIdentity": "thief"})
    eventually(lambda: lost)


def test_an_agent_makes_its_lease_and_renews_it(server: FakeApiServer) -> None:
    beat = Heartbeat(resources(server), "system", "n1")
    beat.renew()
    path = LEASE.path("vmbackup-agent-n1", "system")
    first = server.get(path)
    assert (first["spec"]["holderIdentity"], first["spec"]["leaseDurationSeconds"]) == ("n1", 90)
    beat.renew()
    assert server.get(path)["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]


def node_lease(node: str, renewed: str, name: str = "") -> dict[str, Any]:
    spec = {"holderIdentity": node, "leaseDurationSeconds": 90, "renewTime": renewed}
    return {"metadata": {"name": name or f"vmbackup-agent-{node}"}, "spec": spec}


def test_an_agent_is_alive_as_long_as_its_lease_changes(clock: Clock) -> None:
    watch = NodeWatch()
    watch.observe([node_lease("n1", lease.micro_time(1000))])
    assert watch.live() == {"n1"}
    clock.now += 80
    watch.observe([node_lease("n1", lease.micro_time(1030))])
    clock.now += 80
    assert watch.live() == {"n1"}
    watch.observe([node_lease("n1", lease.micro_time(1030))])
    clock.now += 11
    assert watch.live() == set()


def test_a_lease_that_was_old_when_first_seen_is_silent(clock: Clock) -> None:
    watch = NodeWatch()
    watch.observe([node_lease("n1", lease.micro_time(clock.now - 200)), node_lease("n2", "never")])
    assert watch.live() == set()
    watch.observe([node_lease("n1", lease.micro_time(clock.now - 199))])
    assert watch.live() == {"n1"}, "its clock may be wrong, but it changed before our eyes"


def test_a_lease_speaks_only_for_the_node_in_its_name(clock: Clock) -> None:
    watch = NodeWatch()
    fresh = lease.micro_time(clock.now)
    watch.observe([node_lease("victim", fresh, "vmbackup-agent-n1"), node_lease("n2", fresh, "vmbackup-controller")])
    assert watch.live() == {"n1"}


def test_a_lease_that_is_deleted_is_silence(clock: Clock) -> None:
    watch = NodeWatch()
    watch.observe([node_lease("n1", lease.micro_time(clock.now))])
    watch.observe([])
    assert watch.live() == set()
