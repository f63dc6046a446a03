"""A location is as ready as the nodes that can write to it."""

from fakes.objects import T0, host, location
from vmbackup.api.host import LocationSpace
from vmbackup.core.location_report import location_status, same_but_for_bytes


def seen(node: str, *, ready: bool = True, message: str = "", free: int = 10, name: str = "nightly") -> LocationSpace:
    return LocationSpace(node=node, location=name, ready=ready, message=message, free_bytes=free, total_bytes=100)


def gathered(*spaces: LocationSpace, live: tuple[str, ...] = ("n1", "n2")):  # type: ignore[no-untyped-def]
    hosts = {space.node: host(space.node, locations=(space,)) for space in spaces}
    return location_status(location(), hosts, live, T0)


def test_one_node_that_can_write_makes_it_ready_and_the_others_are_named() -> None:
    status = gathered(seen("n1"), seen("n2", ready=False, message="/srv/backups is read-only"))
    (ready,) = status.conditions
    assert (ready.status, ready.reason) == ("True", "Ready")
    assert "n2: /srv/backups is read-only" in ready.message
    assert status.observed_generation == ready.observed_generation == 3


def test_no_node_that_can_write_makes_it_unusable() -> None:
    (ready,) = gathered(seen("n1", ready=False, message="no such directory")).conditions
    assert (ready.status, ready.reason) == ("False", "LocationUnusable")
    assert "n1: no such directory" in ready.message


def test_a_silent_agent_cannot_write() -> None:
    status = gathered(seen("n9"))
    assert not status.nodes[0].ready
    assert "silent" in status.conditions[0].message


def test_a_location_that_nobody_looked_at_says_so() -> None:
    (ready,) = gathered(seen("n1", name="other")).conditions
    assert (ready.status, ready.reason) == ("False", "NoNode")


def test_many_broken_nodes_do_not_fill_the_message() -> None:
    status = gathered(*(seen(f"n{number}", ready=False, message="m" * 500) for number in range(60)))
    assert len(status.conditions[0].message) <= 4096
    assert len(status.nodes) == 60


def test_free_space_alone_is_no_news() -> None:
    assert same_but_for_bytes(gathered(seen("n1", free=1)), gathered(seen("n1", free=2)))
    assert not same_but_for_bytes(gathered(seen("n1")), gathered(seen("n1", ready=False)))
