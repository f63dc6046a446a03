"""An agent watches with `status.node=<its node>`: 1,000 agents must not each read every VMBackup."""

from typing import Any

from kubernetes import watch

WATCH_SECONDS = 30
Seen = list[tuple[str, str]]


def follow(api: Any, node: str, since: str, until: str) -> Seen:
    """Return (event, name) as an agent of `node` gets them from resource version `since` up to backup `until`."""
    seen: Seen = []
    stream = watch.Watch().stream(
        api.custom.list_namespaced_custom_object,
        *api.backups,
        field_selector=f"status.node={node}",
        resource_version=since,
        timeout_seconds=WATCH_SECONDS,
    )
    for event in stream:
        name = event["object"]["metadata"]["name"]
        if name == until:
            return seen
        seen.append((event["type"], name))
    raise AssertionError(f"{node} never saw {until}, only {seen}")


def now(api: Any) -> str:
    return str(api.custom.list_namespaced_custom_object(*api.backups)["metadata"]["resourceVersion"])


def bind(api: Any, name: str, node: str) -> None:
    api.make(name)
    api.report(name, node=node, phase="Assigned")


def finish(api: Any) -> None:
    """Give every watcher something to end with."""
    for node in ("node-1", "node-2"):
        bind(api, f"last-of-{node}", node)


def test_two_agents_do_not_see_each_others_backups(api: Any) -> None:
    since = now(api)
    bind(api, "one", "node-1")
    bind(api, "two", "node-2")
    api.make("unbound")
    api.report("one", phase="Copying")
    api.change("two", cancel=True)
    finish(api)
    assert follow(api, "node-1", since, "last-of-node-1") == [("ADDED", "one"), ("MODIFIED", "one")]
    assert follow(api, "node-2", since, "last-of-node-2") == [("ADDED", "two"), ("MODIFIED", "two")]


def test_backup_that_leaves_the_selector_arrives_as_deleted(api: Any) -> None:
    bind(api, "mover", "node-1")
    bind(api, "stays", "node-1")
    since = now(api)
    api.report("mover", node="node-2")
    api.report("stays", node=None)
    finish(api)
    assert follow(api, "node-1", since, "last-of-node-1") == [("DELETED", "mover"), ("DELETED", "stays")]
    assert follow(api, "node-2", since, "last-of-node-2") == [("ADDED", "mover")]


def test_deleted_backup_arrives_as_deleted_at_its_own_node_only(api: Any) -> None:
    bind(api, "gone", "node-1")
    since = now(api)
    api.custom.delete_namespaced_custom_object(*api.backups, "gone")
    finish(api)
    assert follow(api, "node-1", since, "last-of-node-1") == [("DELETED", "gone")]
    assert follow(api, "node-2", since, "last-of-node-2") == []


def test_backup_with_a_finalizer_shows_its_deletion_to_its_node(api: Any) -> None:
    bind(api, "busy", "node-1")
    patch = {"metadata": {"finalizers": ["vmbackup.dev/work-in-progress"]}}
    api.custom.patch_namespaced_custom_object(*api.backups, "busy", patch)
    since = now(api)
    api.custom.delete_namespaced_custom_object(*api.backups, "busy")
    finish(api)
    assert follow(api, "node-1", since, "last-of-node-1") == [("MODIFIED", "busy")]
    assert api.read("busy")["metadata"]["deletionTimestamp"]
