"""What a person at the shell sees."""

import json
from pathlib import Path
from typing import Any

import pytest

from vmbackup.api import crd, names

SAMPLES = Path(__file__).resolve().parents[3] / "manifests" / "samples"
NOW = "2026-01-01T00:00:00Z"


def condition(type_: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def test_get_shows_what_is_known_at_each_stage(api: Any) -> None:
    api.make()
    (row,) = api.rows("vmb")
    assert row.pop("AGE")
    assert row == {
        "NAME": "backup", "VM": "web", "METHOD": "", "PHASE": "Pending",
        "OUTCOME": "", "PROGRESS": "", "SIZE": "", "NODE": "",
    }  # fmt: skip

    api.report(
        node="node-1",
        phase="Copying",
        method={"used": "Push", "reason": "libvirt 9.0.0 supports full push"},
        summary={"progress": "42%"},
    )
    (row,) = api.rows("vmb")
    assert (row["METHOD"], row["PHASE"], row["OUTCOME"], row["PROGRESS"], row["NODE"]) == (
        "Push", "Copying", "", "42%", "node-1",
    )  # fmt: skip


def test_get_wide_tells_how_it_ended(api: Any) -> None:
    api.make()
    api.report(
        phase="Done",
        outcome="Failed",
        conditions=[condition("Ready", "False", "NotThis"), condition("Succeeded", "False", "DeadlineExceeded")],
        summary={"progress": "42%", "size": "1.2 GiB", "duration": "3m05s"},
    )
    (row,) = api.rows("vmb", "-o", "wide")
    assert (row["OUTCOME"], row["SIZE"], row["LOCATION"], row["DURATION"], row["REASON"]) == (
        "Failed", "1.2 GiB", "local", "3m05s", "DeadlineExceeded",
    )  # fmt: skip


def test_get_locations(api: Any) -> None:
    api.make_location()
    ready = {"conditions": [condition("Ready", "False", "NoNode", "no node can write to /srv/backups")]}
    api.change_in_cluster("vmbackuplocations", {"status": ready}, status=True)
    (row,) = api.rows("vmbl", api.namespace, "-o", "wide")
    assert (row["READY"], row["PATH"], row["SHARED"], row["MINFREE"], row["MESSAGE"]) == (
        "False", "/srv/backups", "false", "5%", "no node can write to /srv/backups",
    )  # fmt: skip


def test_get_hosts(api: Any) -> None:
    api.make_in_cluster("VMHost")
    status = {
        "libvirtVersion": "7.0.0",
        "hypervisorVersion": "5.2.0",
        "methods": [
            {"method": "Snapshot", "supported": True, "reason": "always"},
            {"method": "Push", "supported": False, "reason": "libvirt 7.0.0 is older than 7.2.0"},
        ],
        "conditions": [condition("Ready", "True", "Ready")],
    }
    api.change_in_cluster("vmhosts", {"status": status}, status=True)
    (row,) = api.rows("vmh", api.namespace)
    assert (row["READY"], row["LIBVIRT"], row["HYPERVISOR"], row["PUSH"], row["SNAPSHOT"]) == (
        "True", "7.0.0", "5.2.0", "false", "true",
    )  # fmt: skip


def test_category_shows_all_of_ours(api: Any) -> None:
    api.make()
    api.make_location()
    api.make_in_cluster("VMHost")
    shown = api.cluster.kubectl("get", names.CATEGORY, "--namespace", api.namespace, "-o", "name").split()
    assert {
        "vmbackup.vmbackup.dev/backup",
        f"vmbackuplocation.vmbackup.dev/{api.namespace}",
        f"vmhost.vmbackup.dev/{api.namespace}",
    } <= set(shown)


def test_get_all_does_not_show_ours(api: Any) -> None:
    api.make()
    assert "backup" not in api.cluster.kubectl("get", "all", "--namespace", api.namespace, "-o", "name")


def test_explain_tells_what_a_field_does(api: Any) -> None:
    text = " ".join(api.cluster.kubectl("explain", "vmb.spec.method").split())
    assert "ENUM: Auto Push Snapshot" in text
    assert "Auto takes Push where the libvirt daemon can (7.2.0 or newer), else Snapshot" in text


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    """Return the paths of properties below `schema` that tell nothing of themselves."""
    found = []
    for name, part in schema.get("properties", {}).items():
        found += [] if part.get("description") else [f"{path}.{name}"]
        found += undescribed(part, f"{path}.{name}")
    return found + (undescribed(schema["items"], f"{path}[]") if "items" in schema else [])


@pytest.mark.parametrize("resource", crd.RESOURCES, ids=lambda resource: resource.plural)
def test_explain_has_text_for_every_field(api: Any, resource: crd.Resource) -> None:
    published = json.loads(api.cluster.kubectl("get", "--raw", f"/openapi/v3/apis/{names.GROUP}/{names.VERSION}"))
    kind = resource.model.__name__
    schema = published["components"]["schemas"][f"dev.vmbackup.{names.VERSION}.{kind}"]
    assert schema["description"] == resource.model.__doc__
    assert undescribed(schema, kind) == []


def test_samples_are_taken_by_the_server(api: Any) -> None:
    api.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}})
    applied = api.cluster.kubectl("apply", "--dry-run=server", "-f", str(SAMPLES), "-o", "name").split()
    assert "vmbackuplocation.vmbackup.dev/local" in applied
    assert len(applied) == len(list(SAMPLES.glob("*.yaml")))


def test_wait_for_condition_returns_at_success(api: Any) -> None:
    made = api.make()
    # kubectl does not believe a condition of an older generation: the first observedGeneration is 0.
    generation = made["metadata"]["generation"]
    api.report(observedGeneration=generation, conditions=[condition("Succeeded", "True", "Completed")])
    wait = ("wait", "vmb/backup", "--namespace", api.namespace, "--for=condition=Succeeded", "--timeout=10s")
    assert "condition met" in api.cluster.kubectl(*wait)
