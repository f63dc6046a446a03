"""Writes are compare-and-swap: nobody's change is lost, nothing is written twice."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.apiserver import FakeApiServer, _merged
from fakes.objects import backup_body
from vmbackup.api import names
from vmbackup.api.host import VMHostStatus
from vmbackup.api.vmbackup import Phase, Progress, VMBackupStatus
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import Conflict, NotFound
from vmbackup.cluster.resources import VMBACKUP, VMHOST, Resources, changes_between

PATH = VMBACKUP.path("b1", "team-a")


@pytest.fixture
def server() -> FakeApiServer:
    fake = FakeApiServer()
    fake.put(PATH, backup_body())
    return fake


@pytest.fixture
def resources(server: FakeApiServer) -> Resources:
    return Resources(cast(Client, server))


def test_paths_are_those_of_the_api() -> None:
    assert PATH == "/apis/vmbackup.dev/v1alpha1/namespaces/team-a/vmbackups/b1"
    assert VMHOST.path("n1") == "/apis/vmbackup.dev/v1alpha1/vmhosts/n1"
    assert VMHOST.path("../secrets") == "/apis/vmbackup.dev/v1alpha1/vmhosts/..%2Fsecrets"


def test_a_status_that_says_nothing_new_is_not_sent(server: FakeApiServer, resources: Resources) -> None:
    status = VMBackupStatus(phase=Phase.COPYING, progress=Progress(bytes_done=1, bytes_total=2, eta_seconds=5))
    written = resources.patch_status(VMBACKUP, server.get(PATH), status)
    again = resources.patch_status(VMBACKUP, written, status)
    assert again is written
    assert len(server.writes()) == 1


def test_what_is_no_longer_known_is_removed(server: FakeApiServer, resources: Resources) -> None:
    first = VMBackupStatus(set="a/b/c", progress=Progress(bytes_done=1, bytes_total=2, eta_seconds=5))
    body = resources.patch_status(VMBACKUP, server.get(PATH), first)
    body = resources.patch_status(VMBACKUP, body, VMBackupStatus(progress=Progress(bytes_done=2, bytes_total=2)))
    assert "set" not in body["status"]
    assert "etaSeconds" not in body["status"]["progress"]


def test_fields_of_a_newer_version_survive(server: FakeApiServer, resources: Resources) -> None:
    server.change(PATH, status={"tape": "LTO-9"})
    body = resources.patch_status(VMBACKUP, server.get(PATH), VMBackupStatus(node="n1"))
    assert body["status"]["tape"] == "LTO-9"
    assert body["status"]["node"] == "n1"


def test_a_write_on_an_old_version_is_refused(server: FakeApiServer, resources: Resources) -> None:
    stale = server.get(PATH)
    server.change(PATH, spec={"cancel": True})
    with pytest.raises(Conflict):
        resources.patch_status(VMBACKUP, stale, VMBackupStatus(node="n1"))
    assert server.get(PATH)["spec"]["cancel"]


def test_another_object_of_the_same_name_is_not_written(server: FakeApiServer, resources: Resources) -> None:
    old = server.get(PATH)
    server.put(PATH, backup_body(metadata={"uid": "another"}))
    with pytest.raises(Conflict):
        resources.patch_status(VMBACKUP, old, VMBackupStatus(node="n1"))
    with pytest.raises(Conflict):
        resources.delete(VMBACKUP, old)
    assert PATH in server.objects


def test_our_finalizer_comes_and_goes_and_others_stay(server: FakeApiServer, resources: Resources) -> None:
    server.change(PATH, metadata={"finalizers": ["argocd"]})
    body = resources.add_finalizer(VMBACKUP, server.get(PATH))
    assert body["metadata"]["finalizers"] == ["argocd", names.FINALIZER]
    assert resources.add_finalizer(VMBACKUP, body) is body
    body = resources.remove_finalizer(VMBACKUP, body)
    assert body["metadata"]["finalizers"] == ["argocd"]
    assert resources.remove_finalizer(VMBACKUP, body) is body


def test_a_host_is_made_once_and_then_written(server: FakeApiServer, resources: Resources) -> None:
    resources.put_status(VMHOST, "n1", VMHostStatus(session="s1"))
    resources.put_status(VMHOST, "n1", VMHostStatus(session="s2"))
    assert server.get(VMHOST.path("n1"))["status"]["session"] == "s2"
    assert [call for call in server.writes() if call.startswith("POST")] == ["POST /apis/vmbackup.dev/v1alpha1/vmhosts"]


def test_what_is_gone_is_said_so(server: FakeApiServer, resources: Resources) -> None:
    body = server.get(PATH)
    server.remove(PATH)
    with pytest.raises(NotFound):
        resources.patch_status(VMBACKUP, body, VMBackupStatus(node="n1"))


values = st.recursive(
    st.booleans() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(bodies, bodies)
def test_a_patch_leads_from_any_status_to_any_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert _merged(old, changes_between(old, new)) == new
    assert not changes_between(new, new)
