"""Schedules, retention and the removal of sets on real parts: what becomes of the files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integration.system.backup import Body, eventually
from integration.system.tenant import Tenant
from vmbackup.api import names

SCHEDULE = {"schedule": "0 0 1 1 *", "vms": {"names": ["web"]}}


def schedule(tenant: Tenant, **spec: Any) -> None:
    """Apply a schedule that runs by its trigger."""
    metadata = {"name": "nightly", "namespace": tenant.namespace, "labels": {"app.kubernetes.io/instance": "argo"}}
    template = {"spec": {"location": tenant.location}}
    body = {"apiVersion": names.API_VERSION, "kind": "VMBackupSchedule", "metadata": metadata}
    tenant.kubectl("apply", "-f", "-", input=json.dumps(body | {"spec": SCHEDULE | {"template": template} | spec}))


def backups(tenant: Tenant) -> dict[str, Body]:
    items = json.loads(tenant.kubectl("get", "vmb", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item for item in items}


def status(tenant: Tenant) -> Body:
    return dict(json.loads(tenant.kubectl("get", "vmbs", "nightly", "-o", "json")).get("status", {}))


def run(tenant: Tenant, trigger: str, **spec: Any) -> str:
    """Trigger a run, wait for the success of its child and return the child's name."""
    before = set(backups(tenant))
    schedule(tenant, trigger=trigger, **spec)
    eventually(lambda: set(backups(tenant)) - before, "a child")
    (name,) = set(backups(tenant)) - before
    tenant.until_succeeded(name)
    tenant.until_older_than(1, name)  # times are whole seconds: which of two sets is newer must be told by them
    return name


def sets(tenant: Tenant) -> list[str]:
    """Return the names of the VMBackups whose sets are published."""
    return sorted(json.loads((path / "manifest.json").read_text())["backupName"] for path in tenant.sets())


def nothing_else(tenant: Tenant) -> bool:
    """Return whether the location holds nothing but published sets: no trash, nothing unfinished."""
    return sorted(tenant.directory.glob("*/*/*")) == tenant.sets() and tenant.leftovers() == []


def ours(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vmbackup", *arguments], capture_output=True, text=True, check=False)


def test_schedule_to_retention_to_an_empty_place(tenant: Tenant) -> None:
    tenant.vm()
    tenant.until_hosted("web")
    dry = {"retention": {"keepLast": 1, "dryRun": True}}
    made = [run(tenant, trigger, **dry) for trigger in ("one", "two", "three")]
    assert backups(tenant)[made[0]]["metadata"]["labels"].keys() == {names.LABEL_SCHEDULE, names.LABEL_RUN}
    eventually(lambda: status(tenant).get("retention", {}).get("removable") == 2, "judged")
    assert sets(tenant) == sorted(made)
    kubeconfig = str(tenant.stage.cluster.kubeconfig)
    told = ours("retention", "explain", "nightly", "-n", tenant.namespace, "--kubeconfig", kubeconfig)
    assert told.returncode == 0, told.stderr
    assert "VM web: 1 set(s) stay, 2 go" in told.stdout
    assert f"{made[0]}: last: 1 newer kept" in told.stdout
    schedule(tenant, trigger="three", retention={"keepLast": 1})
    eventually(lambda: list(backups(tenant)) == [made[2]], "the older ones are gone")
    assert sets(tenant) == [made[2]]
    assert nothing_else(tenant)
    ready = next(one for one in status(tenant)["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Scheduled")
    listed = ours("catalog", "--location", str(tenant.directory), "--json")
    assert listed.returncode == 0, listed.stderr
    assert [entry["manifest"]["backupName"] for entry in json.loads(listed.stdout)] == [made[2]]


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_deleted_backup_and_its_set(tenant: Tenant, policy: str) -> None:
    tenant.vm()
    tenant.back_up(deletionPolicy=policy)
    tenant.until_succeeded()
    tenant.delete()
    tenant.until_gone()
    assert len(tenant.sets()) == (1 if policy == "Retain" else 0)
    assert nothing_else(tenant)


def test_time_to_live_takes_the_set_along(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(deletionPolicy="Delete", ttlSecondsAfterFinished=2)
    tenant.until_gone()
    assert tenant.sets() == []


def test_deleted_in_mid_copy_with_its_set(tenant: Tenant) -> None:
    domain = tenant.begin_slow("Push", deletionPolicy="Delete")
    tenant.delete()
    tenant.until_gone()
    assert tenant.is_home(domain)
    assert tenant.sets() == []


def test_deleted_while_the_agent_is_dead_and_killed_again(tenant: Tenant) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    tenant.vm()
    tenant.back_up(deletionPolicy="Delete")
    tenant.until_succeeded()
    agent.kill()
    tenant.delete()
    assert tenant.exists()
    assert len(tenant.sets()) == 1
    agent.start()
    tenant.until_gone()
    assert tenant.sets() == []


def test_location_that_is_away_does_not_hold_the_resource_and_is_cleaned_later(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(deletionPolicy="Delete")
    tenant.until_succeeded()
    away = tenant.directory.with_name(f"{tenant.directory.name}.away")
    tenant.directory.rename(away)
    try:
        tenant.delete()
        tenant.until_gone()
        assert len(list(away.glob("*/*/*/manifest.json"))) == 1
        tenant.until_event("SetLeft")
    finally:
        away.rename(tenant.directory)
    eventually(lambda: not tenant.sets(), "the set is removed when the location is back")


def test_retention_spares_the_last_good_set_whatever_the_resources_say(tenant: Tenant) -> None:
    """Somebody has emptied the newer sets by hand: their VMBackups still say Succeeded."""
    tenant.vm()
    tenant.until_hosted("web")
    dry = {"retention": {"keepLast": 1, "dryRun": True}}
    made = [run(tenant, trigger, **dry) for trigger in ("one", "two")]
    newest = next(path for path in tenant.sets() if made[1] in path.name)
    empty(newest / "vda.qcow2")
    schedule(tenant, trigger="two", retention={"keepLast": 1})
    eventually(lambda: list(backups(tenant)) == [made[1]], "let go")
    assert made[0] in sets(tenant)
    assert "no newer set of VM web is whole" in tenant.until_event("SetLeft", made[0])["note"]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_held_set_outlives_retention(tenant: Tenant) -> None:
    tenant.vm()
    tenant.until_hosted("web")
    dry = {"retention": {"keepLast": 1, "dryRun": True}}
    first = run(tenant, "one", **dry)
    tenant.kubectl("annotate", "vmb", first, f"{names.ANNOTATION_HOLD}=audit 2026")
    second = run(tenant, "two", retention={"keepLast": 1})
    eventually(lambda: status(tenant).get("retention", {}).get("kept") == 2, "judged")
    assert sets(tenant) == sorted([first, second])
    tenant.kubectl("annotate", "vmb", first, f"{names.ANNOTATION_HOLD}-")
    eventually(lambda: sets(tenant) == [second], "removed once nobody holds it")


def test_sets_come_back_as_resources_when_the_cluster_was_lost(tenant: Tenant) -> None:
    """All resources are gone, the files are not: they are imported, counted by retention and removed again."""
    tenant.vm()
    tenant.until_hosted("web")
    made = [run(tenant, trigger) for trigger in ("one", "two")]
    tenant.kubectl("delete", "vmb", "--all")
    assert backups(tenant) == {}
    assert sets(tenant) == sorted(made)
    flags = ["--name", tenant.location, "-n", tenant.namespace, "--schedule", "nightly"]
    flags += ["--location", str(tenant.directory), "--kubeconfig", str(tenant.stage.cluster.kubeconfig)]
    told = ours("import", *flags)
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("imported") == 2
    assert ours("import", *flags).stdout.count("known") == 2
    assert sorted(backups(tenant)) == sorted(made)
    assert {body["status"]["outcome"] for body in backups(tenant).values()} == {"Succeeded"}
    assert tenant.get(made[0]).conditions["Ready"]["status"] == "True"
    schedule(tenant, trigger="two", retention={"keepLast": 1})
    eventually(lambda: list(backups(tenant)) == [made[1]], "retention counts what was imported")
    assert sets(tenant) == [made[1]]
    assert nothing_else(tenant)
