"""The demo's accident: a VM loses its definition and its disks, and is brought back at once from its backup."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import yaml
from rich.console import Console

from testbed import proof, telling
from testbed.errors import TestbedError
from testbed.holder import REPOSITORY

SAMPLE = REPOSITORY / "manifests" / "samples" / "vmrestore-instant.yaml"
PATIENCE_SECONDS = 300
Kubectl = Callable[..., str]


def lose(console: Console, uri: str, domain: str) -> None:
    """Destroy and undefine a VM and delete its disks."""
    disks = proof.sources(uri, domain)
    for line in (f"virsh destroy {domain}", f"virsh undefine {domain}", f"rm {' '.join(disks.values())}"):
        telling.command(console, line)
    connection = libvirt.open(uri)
    try:
        found = connection.lookupByName(domain)
        found.destroy()
        found.undefine()
    finally:
        connection.close()
    for path in disks.values():
        Path(path).unlink()
    telling.finding(console, True, f"{domain} is gone, with {len(disks)} disks")


def bring_back(console: Console, kubectl: Kubectl, uri: str, namespace: str, backup: str, vm: str) -> bool:
    """Restore the VM under its own name, at once, and say how long everything took; return whether all is well."""
    body: dict[str, Any] = yaml.safe_load(SAMPLE.read_text())
    name = f"{vm}-again-{time.strftime('%H%M%S', time.gmtime())}"
    body["metadata"] |= {"name": name, "namespace": namespace}
    body["spec"]["source"] = {"backup": backup}
    body["spec"]["target"]["instant"] = {"name": vm, "macAddresses": "Keep"}
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # that a VM is not there yet is no news
    telling.command(console, f"kubectl apply -f manifests/samples/{SAMPLE.name}", f"under the name {name}")
    asked_at = time.monotonic()
    telling.plain(console, kubectl("apply", "-f", "-", text=json.dumps(body)))
    domain = f"{namespace}_{vm}"
    _until(lambda: _runs(uri, domain), f"{domain} runs")
    running = time.monotonic() - asked_at
    _until(lambda: _answers(uri, domain), f"the guest agent of {domain} answers")
    answering = time.monotonic() - asked_at
    _until(lambda: _status(kubectl, namespace, name).get("phase") == "Done", f"VMRestore {name} is over")
    complete = time.monotonic() - asked_at
    status = _status(kubectl, namespace, name)
    telling.command(console, f"kubectl -n {namespace} get vmr -o wide")
    telling.plain(console, kubectl("get", "vmr", "-n", namespace, "-o", "wide"))
    own = _on_own_disks(uri, domain)
    findings = [
        (status.get("outcome") == "Succeeded", f"the restore ended as {status.get('outcome')}"),
        (True, f"apply → the VM runs                     {running:6.1f} s"),
        (True, f"apply → its guest is up and answers     {answering:6.1f} s   (no KVM here)"),
        (True, f"apply → all data on its own disks       {complete:6.1f} s"),
        (own, f"{domain} runs on its own disks; the set is not needed any more"),
    ]
    for good, words in findings:
        telling.finding(console, good, words)
    return all(good for good, _ in findings)


def _status(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    body = json.loads(kubectl("get", "vmr", "-n", namespace, name, "-o", "json"))
    return dict(body.get("status") or {})


def _until(test: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not test():
        if time.monotonic() > deadline:
            raise TestbedError(f"After {PATIENCE_SECONDS} s still not: {what}.")
        time.sleep(0.1)


def _runs(uri: str, domain: str) -> bool:
    connection = libvirt.open(uri)
    try:
        return bool(connection.lookupByName(domain).isActive())
    except libvirt.libvirtError:
        return False
    finally:
        connection.close()


def _answers(uri: str, domain: str) -> bool:
    connection = libvirt.open(uri)
    try:
        found = connection.lookupByName(domain)
        return "return" in libvirt_qemu.qemuAgentCommand(found, '{"execute":"guest-ping"}', 2, 0)
    except libvirt.libvirtError:
        return False
    finally:
        connection.close()


def _on_own_disks(uri: str, domain: str) -> bool:
    """Return whether the VM runs and none of its images has another one below it."""
    connection = libvirt.open(uri)
    try:
        found = connection.lookupByName(domain)
        return bool(found.isActive()) and "<backingStore type=" not in found.XMLDesc()
    finally:
        connection.close()
