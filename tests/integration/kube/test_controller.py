"""The controller on a real API server, with only its own rights. The agents are played by the tests."""

from collections.abc import Iterator

import pytest

from fakes.waiting import eventually
from integration.kube.processes import ControllerProcess, controller, grant, vm
from integration.kube.scene import PATIENCE_SECONDS, SYSTEM, Scene
from testbed.controlplane import ControlPlane
from vmbackup.api import names
from vmbackup.cluster.client import Client
from vmbackup.cluster.resources import LOCATION, VMBACKUP
from vmbackup.core.turns import Limits

GRACE_SECONDS = 2.0


class LongTerms:
    def __repr__(self) -> str:
        return "Terms(duration=90, renew_deadline=60, retry=1)"


@pytest.fixture(scope="module")
def running(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    kubeconfig = grant(cluster, SYSTEM)
    # A lead that outlives a restart of the API server on a slow machine.
    options = {"limits": Limits(grace_seconds=GRACE_SECONDS), "terms": LongTerms()}
    with controller(kubeconfig, SYSTEM, tmp_path_factory.mktemp("controller"), **options) as process:
        eventually(lambda: process.leads, "the controller leads", PATIENCE_SECONDS)
        yield process
        assert process.alive, process.log
        assert "Traceback" not in process.log
        assert process.end() == 0


@pytest.fixture(scope="module")
def client(cluster: ControlPlane) -> Iterator[Client]:
    client = Client(cluster.kubeconfig, field_manager="test")
    yield client
    client.close()


@pytest.fixture
def scene(running: ControllerProcess, client: Client, namespace: str) -> Scene:
    scene = Scene(client, namespace)
    scene.make_location()
    scene.n1.beat()
    scene.n1.show(*(vm(namespace, name, number) for number, name in enumerate(("web", "db", "mail"))))
    path = LOCATION.path(scene.location)
    eventually(
        lambda: client.get(path).get("status", {}).get("conditions", [{}])[0].get("status") == "True",
        "the location is Ready: the controller knows the node",
        PATIENCE_SECONDS,
    )
    return scene


def test_a_backup_is_bound_and_nothing_but_status_and_finalizer_is_written(scene: Scene) -> None:
    scene.make("b1")
    asked = scene.read("b1")["spec"]
    scene.bound("b1")
    body = scene.read("b1")
    assert body["status"]["phase"] == "Assigned"
    assert body["metadata"]["finalizers"] == [names.FINALIZER]
    assert "annotations" not in body["metadata"]
    assert body["metadata"]["generation"] == 1
    assert body["spec"] == asked
    assert scene.condition("b1", "Reconciling")["status"] == "True"
    assert scene.condition("b1", "Succeeded")["status"] == "Unknown"


def test_an_event_tells_of_the_binding(scene: Scene, cluster: ControlPlane) -> None:
    scene.make("b1")
    scene.bound("b1")
    eventually(lambda: "Assigned" in cluster.kubectl("events", "-n", scene.namespace, "--for", "vmbackup/b1"))


def test_a_node_runs_two_and_the_third_moves_up_when_one_ends(scene: Scene) -> None:
    scene.make("a", "web")
    scene.bound("a")
    scene.make("b", "db")
    scene.bound("b")
    scene.make("c", "mail")
    waits = scene.becomes("c", "Queued")
    assert waits["message"] == f"Waiting for 2 older backups on node {scene.n1.name}, 2 at a time."
    assert not scene.read("c")["metadata"].get("finalizers")
    scene.finish("a")
    scene.bound("c")


def test_the_second_backup_of_a_vm_waits_its_turn(scene: Scene) -> None:
    scene.make("first")
    scene.make("second")
    scene.bound("first")
    assert "first" in scene.becomes("second", "Queued")["message"]
    scene.finish("first")
    scene.bound("second")


def test_a_location_takes_only_so_many(scene: Scene, client: Client) -> None:
    client.patch(LOCATION.path(scene.location), {"spec": {"maxConcurrent": 1}})
    scene.make("a", "web")
    scene.bound("a")
    scene.make("b", "db")
    assert scene.location in scene.becomes("b", "Queued")["message"]
    client.patch(LOCATION.path(scene.location), {"spec": {"maxConcurrent": 2}})
    scene.bound("b")


def test_an_unknown_vm_and_one_of_another_namespace_are_refused_in_the_same_words(scene: Scene, client: Client) -> None:
    foreign = scene.node("n2")
    foreign.beat()
    foreign.show(vm("somebody-else", "secret", 7))
    scene.make("b1", "secret")
    scene.make("b2", "absent")
    hidden, absent = scene.becomes("b1", "VMNotFound"), scene.becomes("b2", "VMNotFound")
    assert hidden["message"].replace("secret", "absent") == absent["message"]
    assert (scene.status("b1")["phase"], scene.status("b1")["outcome"]) == ("Done", "Refused")
    assert scene.condition("b1", "Stalled")["status"] == "True"
    assert "somebody-else" not in str(scene.read("b1"))


def test_a_vm_that_comes_within_the_grace_is_backed_up(scene: Scene) -> None:
    scene.make("b1", "late")
    scene.becomes("b1", "WaitingForVM")
    scene.n1.show(vm(scene.namespace, "late", 9))
    scene.bound("b1")


def test_a_vm_that_is_off_is_waited_for(scene: Scene) -> None:
    scene.n1.show(vm(scene.namespace, "web", 1, running=False))
    scene.make("b1")
    scene.becomes("b1", "VMNotRunning")
    scene.n1.show(vm(scene.namespace, "web", 1))
    scene.bound("b1")


def test_one_name_on_two_nodes_must_be_told_apart(scene: Scene) -> None:
    n2 = scene.node("n2")
    n2.beat()
    n2.show(vm(scene.namespace, "web", 99))
    scene.make("b1", source={"name": "web", "node": n2.name})
    scene.bound("b1", n2)
    scene.make("b2")
    message = scene.becomes("b2", "VMAmbiguous")["message"]
    assert scene.n1.name in message
    assert n2.name in message


def test_an_unknown_location_is_refused(scene: Scene) -> None:
    scene.make("b1", location="nowhere")
    scene.becomes("b1", "LocationNotFound")
    eventually(lambda: scene.status("b1").get("outcome") == "Refused", seconds=PATIENCE_SECONDS)


def test_a_location_of_others_is_refused_and_admitted_by_label(scene: Scene, client: Client) -> None:
    client.patch(
        LOCATION.path(scene.location),
        {"spec": {"allowedNamespaces": {"names": ["other"], "matchLabels": {"backup": "yes"}}}},
    )
    scene.make("b1")
    scene.becomes("b1", "LocationNotAllowed")
    client.patch(f"/api/v1/namespaces/{scene.namespace}", {"metadata": {"labels": {"backup": "yes"}}})
    admitted = [0]

    def try_again() -> bool:
        """The label and the backup come by two watches: either may be first."""
        name = f"again-{admitted[0]}"
        if scene.gone(name):
            scene.make(name)
        if scene.condition(name)["reason"] == "LocationNotAllowed":
            admitted[0] += 1
        return scene.status(name).get("node") == scene.n1.name

    eventually(try_again, "admitted by its label", PATIENCE_SECONDS)


def test_a_backup_on_a_node_that_falls_silent_says_so_and_stays_bound(scene: Scene) -> None:
    n2 = scene.node("n2")
    n2.beat(duration_seconds=3)
    n2.show(vm(scene.namespace, "far", 5))
    scene.make("b1", "far")
    scene.bound("b1", n2)
    n2.report(scene.namespace, "b1", phase="Copying", attempt=1)
    assert n2.name in scene.becomes("b1", "NodeLost")["message"]
    status = scene.status("b1")
    assert (status["node"], status["phase"], status["attempt"]) == (n2.name, "Copying", 1)
    scene.n1.show(vm(scene.namespace, "far", 5))
    scene.make("b2", "far")
    assert "b1" in scene.becomes("b2", "Queued")["message"], "the VM may still be on its way home on n2"


def test_a_backup_for_a_silent_node_waits_until_it_is_back(scene: Scene) -> None:
    n2 = scene.node("n2")
    n2.beat(age_seconds=500)
    n2.show(vm(scene.namespace, "far", 5))
    scene.make("b1", "far")
    scene.becomes("b1", "NodeLost")
    n2.beat()
    scene.bound("b1", n2)


def test_a_deleted_backup_stays_until_its_agent_has_gone_home(scene: Scene) -> None:
    scene.make("b1")
    scene.bound("b1")
    scene.delete("b1")
    scene.n1.report(scene.namespace, "b1", phase="Committing", outcome="Cancelled")
    assert scene.read("b1")["metadata"]["deletionTimestamp"]
    scene.n1.report(scene.namespace, "b1", phase="Done", outcome="Cancelled")
    eventually(lambda: scene.gone("b1"), "the resource goes", PATIENCE_SECONDS)


def test_a_backup_that_is_deleted_in_the_queue_goes_at_once(scene: Scene) -> None:
    scene.make("a", "web")
    scene.bound("a")
    scene.make("b", "web")
    scene.becomes("b", "Queued")
    scene.delete("b")
    eventually(lambda: scene.gone("b"), "the resource goes", PATIENCE_SECONDS)


def test_a_deleted_backup_that_was_only_half_bound_goes(scene: Scene, client: Client) -> None:
    """A controller died between the finalizer and the binding, and the user lost patience."""
    scene.make("a", "web")
    scene.bound("a")
    scene.make("b", "web")
    scene.becomes("b", "Queued")
    client.patch(VMBACKUP.path("b", scene.namespace), {"metadata": {"finalizers": [names.FINALIZER]}})
    scene.delete("b")
    eventually(lambda: scene.gone("b"), "the resource goes", PATIENCE_SECONDS)


def test_a_backup_that_is_cancelled_in_the_queue_ends_at_once(scene: Scene, client: Client) -> None:
    scene.make("a", "web")
    scene.bound("a")
    scene.make("b", "web")
    scene.becomes("b", "Queued")
    client.patch(VMBACKUP.path("b", scene.namespace), {"spec": {"cancel": True}})
    scene.becomes("b", "Cancelled")
    assert (scene.status("b")["phase"], scene.status("b")["outcome"]) == ("Done", "Cancelled")


def test_a_cancellation_after_the_end_is_seen(scene: Scene, client: Client) -> None:
    scene.make("late")
    scene.bound("late")
    scene.finish("late")
    client.patch(VMBACKUP.path("late", scene.namespace), {"spec": {"cancel": True}})
    generation = scene.read("late")["metadata"]["generation"]
    seen = lambda: scene.status("late")["observedGeneration"] == generation  # noqa: E731
    eventually(seen, "the generation is seen", PATIENCE_SECONDS)
    assert (scene.status("late")["phase"], scene.status("late")["outcome"]) == ("Done", "Succeeded")


def test_a_finished_backup_is_released_and_removed_by_its_ttl(scene: Scene) -> None:
    scene.make("kept")
    scene.bound("kept")
    scene.finish("kept")
    eventually(lambda: not scene.read("kept")["metadata"].get("finalizers"), "released", PATIENCE_SECONDS)
    scene.make("short", ttlSecondsAfterFinished=1)
    scene.bound("short")
    scene.finish("short")
    eventually(lambda: scene.gone("short"), "removed", PATIENCE_SECONDS)
    assert not scene.gone("kept")


def test_its_rights_sufficed_for_all_of_that(running: ControllerProcess) -> None:
    """After a restart, below, the API server forbids everything for a moment."""
    assert ": 403 " not in running.log


def test_a_restart_of_the_api_server_is_survived(
    scene: Scene, cluster: ControlPlane, running: ControllerProcess
) -> None:
    scene.make("before")
    scene.bound("before")
    cluster.stop_apiserver()
    eventually(lambda: "no answer from the API server" in running.log, "the absence is noticed", PATIENCE_SECONDS)
    cluster.start_apiserver()
    scene.make("after", "db")
    scene.bound("after")
    scene.finish("before")
    eventually(lambda: not scene.read("before")["metadata"].get("finalizers"), "released", PATIENCE_SECONDS)
    assert running.alive
