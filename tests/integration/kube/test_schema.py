"""What the API server makes of our resources before any of our code runs."""

import json
from typing import Any

import pytest

from vmbackup.api import crd
from vmbackup.api.vmbackup import VMBackup, VMBackupSpec

NOW = "2026-01-01T00:00:00Z"
IMMUTABLE = "cannot be changed once the VMBackup exists: make a new VMBackup."
SIZE = "Write a size as a whole number above zero"
NAME = "Write the VM's name with letters, digits"
PATH = "Write an absolute path without '.' and '..'"


@pytest.mark.parametrize("resource", crd.RESOURCES, ids=lambda resource: resource.plural)
def test_crd_is_established_and_no_name_is_taken(api: Any, resource: crd.Resource) -> None:
    found = json.loads(api.cluster.kubectl("get", "crd", f"{resource.plural}.vmbackup.dev", "-o", "json"))
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


def test_defaults_are_filled_in(api: Any) -> None:
    made = api.make()
    assert made["spec"] == {
        "source": {"kind": "Domain", "name": "web"},
        "location": "local",
        "method": "Auto",
        "disks": {"include": [], "exclude": []},
        "quiesce": "IfAvailable",
        "verify": "Check",
        "deadlineSeconds": 3600,
        "overlay": {"maxBytes": "20Gi", "maxSeconds": 1800},
        "deletionPolicy": "Retain",
        "cancel": False,
    }


def test_defaults_of_server_and_model_are_the_same(api: Any) -> None:
    minimal = {"source": {"name": "web"}, "location": "local"}
    assert VMBackup.parse(api.make()).spec == VMBackupSpec.model_validate(minimal)


def test_new_backup_does_not_count_as_done(api: Any) -> None:
    made = api.make()
    assert made["status"] == {"observedGeneration": 0, "phase": "Pending"}
    assert made["status"]["observedGeneration"] < made["metadata"]["generation"]


def test_location_defaults_are_careful(api: Any) -> None:
    assert api.make_location()["spec"] == {
        "directory": {"path": "/srv/backups", "shared": False},
        "allowedNamespaces": {"names": [], "matchLabels": {}},
        "minFree": "5%",
        "maxConcurrent": 4,
    }


CHANGES = [
    ("source", {}, {"name": "db"}),
    ("source", {}, {"node": "node-1"}),
    ("source", {"source": {"name": "web", "node": "node-1"}}, {"node": None}),
    ("location", {}, "other"),
    ("method", {}, "Push"),
    ("method", {"method": "Push"}, None),
    ("disks", {}, {"include": ["vda"]}),
    ("disks", {"disks": {"include": ["vda"]}}, {"include": ["vda", "vdb"]}),
    ("disks", {"disks": {"include": ["vda"]}}, None),
    ("quiesce", {}, "Never"),
    ("verify", {}, "None"),
    ("maxBytesPerSecond", {}, "10Mi"),
    ("maxBytesPerSecond", {"maxBytesPerSecond": "10Mi"}, "20Mi"),
    ("maxBytesPerSecond", {"maxBytesPerSecond": "10Mi"}, None),
    ("deadlineSeconds", {}, 7200),
    ("overlay", {}, {"maxBytes": "1Gi"}),
    ("overlay", {}, {"maxSeconds": 60}),
    ("ttlSecondsAfterFinished", {}, 60),
    ("ttlSecondsAfterFinished", {"ttlSecondsAfterFinished": 60}, 61),
    ("ttlSecondsAfterFinished", {"ttlSecondsAfterFinished": 60}, None),
]


@pytest.mark.parametrize(("field", "before", "value"), CHANGES)
def test_spec_changed_after_creation(api: Any, field: str, before: dict[str, Any], value: object) -> None:
    spec = api.make(**before)["spec"]
    with api.refused(f"spec.{field}", f"{field} {IMMUTABLE}"):
        api.change(**{field: value})
    assert api.read()["spec"] == spec


def test_every_field_of_the_spec_was_tried() -> None:
    fields = VMBackupSpec.model_json_schema()["properties"]
    assert {field for field, _, _ in CHANGES} == set(fields) - {"cancel", "deletionPolicy"}


def test_same_spec_again_is_no_change(api: Any) -> None:
    made = api.make(disks={"include": ["vda", "vdb"]}, maxBytesPerSecond="10Mi")
    again = api.change(**made["spec"])
    assert again["metadata"]["generation"] == made["metadata"]["generation"]


def test_cancel_is_the_one_change_and_cannot_be_taken_back(api: Any) -> None:
    api.make()
    assert api.change(cancel=True)["spec"]["cancel"] is True
    for back in (False, None):
        with api.refused("spec.cancel", "cancel cannot be taken back: make a new VMBackup."):
            api.change(cancel=back)


def test_cancel_does_not_smuggle_other_changes(api: Any) -> None:
    api.make()
    with api.refused(f"method {IMMUTABLE}"):
        api.change(cancel=True, method="Push")


@pytest.mark.parametrize(
    ("spec", "sentences"),
    [
        ({"disks": {"include": ["vda"], "exclude": ["vdb"]}}, ("spec.disks", "Give either include or exclude")),
        ({"disks": {"include": ["vda", "vda"]}}, ("spec.disks.include[1]", "Duplicate value")),
        ({"disks": {"exclude": ["vda", "vda"]}}, ("spec.disks.exclude[1]", "Duplicate value")),
        ({"disks": {"include": ["/dev/sda"]}}, ("spec.disks.include[0]", "Name a disk by its target")),
        ({"disks": {"include": [f"vd{n}" for n in range(65)]}}, ("spec.disks.include", "at most 64 items")),
        ({"source": {"name": "../web"}}, ("spec.source.name", NAME)),
        ({"source": {"name": "web/"}}, ("spec.source.name", NAME)),
        ({"source": {"name": "w" * 181}}, ("spec.source.name", "may not be more than 180")),
        ({"source": {"name": "web", "kind": "Pod"}}, ("spec.source.kind", 'supported values: "Domain"')),
        ({"source": None}, ("spec.source: Required value",)),
        ({"location": "../local"}, ("spec.location", "Name a VMBackupLocation")),
        ({"location": None}, ("spec.location: Required value",)),
        ({"method": "Pull"}, ("spec.method", 'supported values: "Auto", "Push", "Snapshot"')),
        ({"deadlineSeconds": 0}, ("spec.deadlineSeconds", "greater than or equal to 1")),
        ({"deadlineSeconds": -5}, ("spec.deadlineSeconds", "greater than or equal to 1")),
        ({"maxBytesPerSecond": "0"}, ("spec.maxBytesPerSecond", SIZE)),
        ({"maxBytesPerSecond": "1.5Gi"}, ("spec.maxBytesPerSecond", SIZE)),
        ({"maxBytesPerSecond": "fast"}, ("spec.maxBytesPerSecond", SIZE)),
        ({"overlay": {"maxBytes": "-1"}}, ("spec.overlay.maxBytes", SIZE)),
        ({"overlay": {"maxSeconds": 1}}, ("spec.overlay.maxSeconds", "greater than or equal to 10")),
    ],
)
def test_spec_that_cannot_be_served(api: Any, spec: dict[str, Any], sentences: tuple[str, ...]) -> None:
    with api.refused(*sentences):
        api.make(**spec)


def test_name_too_long_for_a_directory(api: Any) -> None:
    with api.refused("metadata.name", "Give the VMBackup a name of at most 63 characters"):
        api.make("b" * 64)
    assert api.make("b" * 63)["metadata"]["name"] == "b" * 63


def test_unknown_field_is_named_by_kubectl_and_never_stored(api: Any) -> None:
    made = api.make(path="/etc")
    assert "path" not in made["spec"]
    with pytest.raises(Exception, match=r'unknown field "spec\.path"'):
        api.cluster.kubectl("create", "-f", "-", input=json.dumps(made | {"spec": made["spec"] | {"path": "/etc"}}))


@pytest.mark.parametrize(
    "path", ["/srv/../etc", "/..", "/srv/..", "/srv/./b", "/srv//b", "/srv/b/", "srv/b", "/", "/a b", "/srv/\n"]
)
def test_location_path_that_leads_elsewhere(api: Any, path: str) -> None:
    with api.refused("spec.directory.path", PATH):
        api.make_location(path=path)


@pytest.mark.parametrize("path", ["/srv/backups", "/mnt/.hidden/a..b", "/srv/..a"])
def test_ordinary_location_path(api: Any, path: str) -> None:
    assert api.make_location(path=path)["spec"]["directory"]["path"] == path


@pytest.mark.parametrize(
    ("spec", "sentences"),
    [
        ({"minFree": "100%"}, ("spec.minFree", "Write a percentage from 0% to 99%, or a size")),
        ({"minFree": "lots"}, ("spec.minFree", "Write a percentage from 0% to 99%, or a size")),
        ({"maxConcurrent": 0}, ("spec.maxConcurrent", "greater than or equal to 1")),
        ({"allowedNamespaces": {"names": ["demo", "demo"]}}, ("spec.allowedNamespaces.names[1]", "Duplicate value")),
        ({"allowedNamespaces": {"names": ["dem*"]}}, ("spec.allowedNamespaces.names[0]", "Write the name of a name")),
        ({"allowedNamespaces": {"matchLabels": {"k" * 318: ""}}}, ("A label's key has at most 317 characters",)),
    ],
)
def test_location_that_cannot_be_served(api: Any, spec: dict[str, Any], sentences: tuple[str, ...]) -> None:
    with api.refused(*sentences):
        api.make_location(**spec)


def test_location_path_stays_but_its_limits_may_change(api: Any) -> None:
    api.make_location()
    with api.refused("path cannot be changed: the sets below the old path would be lost from view."):
        api.change_in_cluster("vmbackuplocations", {"spec": {"directory": {"path": "/srv/other"}}})
    changed = api.change_in_cluster("vmbackuplocations", {"spec": {"maxConcurrent": 9, "minFree": "1Gi"}})
    assert (changed["spec"]["maxConcurrent"], changed["spec"]["minFree"]) == (9, "1Gi")


def test_spec_and_status_are_written_apart(api: Any) -> None:
    made = api.make()
    patch = api.custom.patch_namespaced_custom_object
    after = patch(*api.backups, "backup", {"spec": {"cancel": True}, "status": {"phase": "Done", "node": "evil"}})
    assert after["status"] == made["status"]
    patch = api.custom.patch_namespaced_custom_object_status
    after = patch(*api.backups, "backup", {"spec": {"cancel": False, "method": "Push"}, "status": {"node": "node-1"}})
    assert (after["spec"]["cancel"], after["spec"]["method"], after["status"]["node"]) == (True, "Auto", "node-1")


def test_status_cannot_come_with_creation(api: Any) -> None:
    body = {"apiVersion": "vmbackup.dev/v1alpha1", "kind": "VMBackup", "metadata": {"name": "backup"}}
    body |= {"spec": {"source": {"name": "web"}, "location": "local"}, "status": {"phase": "Done", "node": "evil"}}
    made = api.custom.create_namespaced_custom_object(*api.backups, body)
    assert made["status"] == {"observedGeneration": 0, "phase": "Pending"}


@pytest.mark.parametrize(
    ("status", "sentences"),
    [
        ({"phase": "Sleeping"}, ("status.phase", "Unsupported value")),
        ({"startTime": "yesterday"}, ("status.startTime", "date-time")),
        ({"disks": [{"name": "vda", "state": "Copied"}] * 2}, ("status.disks[1]", "Duplicate value")),
        ({"observedGeneration": -1}, ("status.observedGeneration", "greater than or equal to 0")),
    ],
)
def test_report_that_makes_no_sense(api: Any, status: dict[str, Any], sentences: tuple[str, ...]) -> None:
    api.make()
    with api.refused(*sentences):
        api.report(**status)


def test_field_selectors_work_on_the_server(api: Any) -> None:
    for name, node, phase in (("a", "node-1", "Copying"), ("b", "node-2", "Copying"), ("c", "node-1", "Done")):
        api.make(name)
        api.report(name, node=node, phase=phase)
    api.make("waiting")

    def select(selector: str) -> list[str]:
        found = api.custom.list_namespaced_custom_object(*api.backups, field_selector=selector)
        return [item["metadata"]["name"] for item in found["items"]]

    assert select("status.node=node-1") == ["a", "c"]
    assert select("status.node=node-1,status.phase=Copying") == ["a"]
    assert select("status.phase=Pending") == ["waiting"]
    assert select("status.node=") == ["waiting"]
