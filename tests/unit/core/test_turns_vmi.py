"""Turns of backups of VirtualMachineInstances: node, namespace, queue."""

from typing import Any

from fakes.objects import T0, backup, bound, host, location, vm
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import VMBackup
from vmbackup.api.vmi import VirtualMachineInstance
from vmbackup.core.turns import Bind, Limits, Refuse, Scene, Turn, Wait, plan_turns

SPEC = {"source": {"kind": "VirtualMachineInstance", "name": "web"}}
POD = "3c7d2c50-0000-4000-8000-00000000000a"


def vmi(node: str = "n1", namespace: str = "team-a", **status: Any) -> VirtualMachineInstance:
    head = {"name": "web", "namespace": namespace, "uid": f"uid-{namespace}"}
    running = {"phase": "Running", "nodeName": node, "activePods": {POD: node}}
    return VirtualMachineInstance.model_validate({"metadata": head, "status": running | status})


def plan(
    *backups: VMBackup, vmis: tuple[VirtualMachineInstance, ...] = (), now: float = T0 + 1, **scene: Any
) -> list[Turn]:
    fields: dict[str, Any] = {
        "backups": backups,
        "hosts": {},
        "locations": {"nightly": location()},
        "namespaces": {"team-a": {}, "team-b": {}},
        "live_nodes": ("n1", "n2"),
        "vmis": {(one.metadata.namespace, one.metadata.name): one for one in vmis},
    }
    return plan_turns(Scene(**fields | scene), Limits(per_node=2, grace_seconds=60), now)


def test_running_vmi_binds_to_its_node() -> None:
    (turn,) = plan(backup(spec=SPEC), vmis=(vmi("n2"),))
    assert isinstance(turn, Bind)
    assert turn.node == "n2"


def test_node_without_an_agent_is_waited_for() -> None:
    (turn,) = plan(backup(spec=SPEC), vmis=(vmi("n3"),))
    assert isinstance(turn, Wait)
    assert turn.reason is Reason.NODE_LOST


def test_vmi_of_another_namespace_is_not_there() -> None:
    (turn,) = plan(backup(spec=SPEC), vmis=(vmi(namespace="team-b"),))
    assert isinstance(turn, Wait)
    assert turn.reason is Reason.WAITING_FOR_VM
    (late,) = plan(backup(spec=SPEC), vmis=(vmi(namespace="team-b"),), missing_since={"uid-team-a-b1": T0}, now=T0 + 61)
    assert isinstance(late, Refuse)
    assert late.reason is Reason.VM_NOT_FOUND


def test_migrating_vmi_is_waited_for_until_the_deadline() -> None:
    moving = (vmi(migrationState={"targetNode": "n2"}),)
    (turn,) = plan(backup(spec=SPEC), vmis=moving)
    assert isinstance(turn, Wait)
    assert turn.reason is Reason.FOREIGN_JOB
    (late,) = plan(backup(spec=SPEC), vmis=moving, now=T0 + 3601)
    assert isinstance(late, Refuse)
    assert late.reason is Reason.DEADLINE_EXCEEDED
    assert "migrating" in late.message


def test_domain_and_vmi_of_one_name_are_not_mixed_up() -> None:
    hosts = {"n1": host("n1", vm("web", 1))}
    of_domain, of_vmi = backup("domain"), backup("vmi", spec=SPEC)
    (missing,) = plan(of_vmi, hosts=hosts)
    assert isinstance(missing, Wait)
    turns = plan(of_domain, of_vmi, hosts=hosts, vmis=(vmi("n2"),))
    assert {turn.backup.metadata.name: turn.node for turn in turns if isinstance(turn, Bind)} == {
        "domain": "n1",
        "vmi": "n2",
    }


def test_two_backups_of_one_vmi_run_one_after_the_other_wherever_it_is_now() -> None:
    (turn,) = plan(bound("first", "n1", spec=SPEC), backup("second", spec=SPEC), vmis=(vmi("n2"),))
    assert isinstance(turn, Wait)
    assert turn.reason is Reason.QUEUED
