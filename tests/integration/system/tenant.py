"""What a user has: a namespace, VMs, a location, kubectl; and eyes for what becomes of a backup."""

import json
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from kubernetes import client

from integration.system.backup import LOOK_SECONDS, PATIENCE_SECONDS, Backup, Body, eventually
from integration.system.machines import MIB, Machines
from integration.system.programs import Node, Stage
from vmbackup.api import names

HELD_BYTES = (512 * MIB, 1024 * MIB, 2048 * MIB)  # QEMU copies much before a speed limit bites


class Tenant(Machines):
    """One namespace with a location of its own. What it makes on the nodes is removed by `leave`."""

    def __init__(self, stage: Stage, api: client.ApiClient, namespace: str) -> None:
        super().__init__(stage, namespace)
        self.custom = client.CustomObjectsApi(api)
        self.location = namespace
        self.directory = stage.directory / "locations" / namespace
        self._locations: list[str] = []

    # -- making -----------------------------------------------------------------------------------------------

    def begin_slow(self, method: str, seconds: int = 60, **more: Any) -> str:
        """Make VM web, begin a backup that stays in the middle of its copy, and return the domain's name.

        A push job is nearly stopped until `release`; a copy of a snapshot takes so many seconds.
        more: fields of the spec.
        """
        if method == "Snapshot":
            domain = self.vm(data_bytes=seconds * MIB)
            self.back_up(method=method, maxBytesPerSecond="1Mi", **more)
            self.until(lambda backup: self.has_begun(backup, domain))
            return domain
        for data_bytes in HELD_BYTES:
            domain = self._begin_push(data_bytes, **more)
            if self.bandwidth(domain) > 0:
                return domain
            self.kubectl("delete", "vmb", "backup")
            self.remove(domain)
            shutil.rmtree(self.directory / self.namespace)
        raise AssertionError("QEMU copied everything before the limit bit")

    def make_location(self, name: str = "", path: Path | None = None, **spec: Any) -> str:
        """Make a location that admits this namespace, by default on a fresh directory, and return its name."""
        path = path or self.directory
        name = name or self.location
        if path == self.directory:
            path.mkdir(parents=True)
        full = {"directory": {"path": str(path)}, "allowedNamespaces": {"names": [self.namespace]}} | spec
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackupLocation", "metadata": {"name": name}, "spec": full}
        self._locations.append(name)
        self.custom.create_cluster_custom_object(names.GROUP, names.VERSION, "vmbackuplocations", body)
        return name

    def back_up(self, name: str = "backup", vm: str = "web", **spec: Any) -> Backup:
        """Apply a VMBackup with kubectl; keywords are fields of its spec."""
        full = {"source": {"name": vm}, "location": self.location} | spec
        metadata = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackup", "metadata": metadata, "spec": full}
        return Backup(json.loads(self.kubectl("apply", "-f", "-", "-o", "json", input=json.dumps(body))))

    # -- acting -----------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - subprocess calls it so
        return self.stage.cluster.kubectl("--namespace", self.namespace, *arguments, input=input)

    def _begin_push(self, data_bytes: int, **more: Any) -> str:
        domain = self.vm(data_bytes=data_bytes)
        self.back_up(method="Push", maxBytesPerSecond="64Ki", **more)
        self.until(lambda backup: self.has_begun(backup, domain))
        return domain

    def has_begun(self, backup: Backup, domain: str) -> bool:
        """Return whether the copy has gone so far that it is slow, or is over already."""
        if backup.over:
            return True
        if backup.spec["method"] == "Push":
            return self.bandwidth(domain) > 0
        return backup.phase == "Copying" and backup.bytes_done > 0

    def cancel(self, name: str = "backup") -> None:
        self.kubectl("patch", "vmb", name, "--type=merge", "-p", '{"spec":{"cancel":true}}')

    def delete(self, name: str = "backup") -> None:
        """Delete a VMBackup without waiting for its end."""
        self.kubectl("delete", "vmb", name, "--wait=false")

    def forge(self, name: str = "backup", **status: Any) -> None:
        """Write into the status, as somebody who has rights that no user should have."""
        self.custom.patch_namespaced_custom_object_status(*self.backups, name, {"status": status})

    # -- looking ----------------------------------------------------------------------------------------------

    def get(self, name: str = "backup") -> Backup:
        return Backup(dict(self.custom.get_namespaced_custom_object(*self.backups, name)))

    def exists(self, name: str = "backup") -> bool:
        return bool(self.kubectl("get", "vmb", name, "--ignore-not-found", "-o", "name"))

    def until(
        self, test: Callable[[Backup], object], name: str = "backup", seconds: float = PATIENCE_SECONDS
    ) -> Backup:
        """Return the backup as soon as the test holds; fail with all that is known when it never does."""
        deadline = time.monotonic() + seconds
        while True:
            backup = self.get(name)
            if test(backup):
                return backup
            if time.monotonic() > deadline:
                raise AssertionError(f"never came; the backup stands at:\n{self._all_that_is_known(backup)}")
            time.sleep(LOOK_SECONDS)

    def until_over(self, name: str = "backup", seconds: float = PATIENCE_SECONDS) -> Backup:
        return self.until(lambda backup: backup.over, name, seconds)

    def until_older_than(self, seconds: float, name: str = "backup") -> None:
        """Return when so much time has passed since the start that the status tells."""
        started = datetime.fromisoformat(self.get(name).status["startTime"]).timestamp()
        eventually(lambda: time.time() > started + seconds, f"{seconds} s have passed")

    def until_succeeded(self, name: str = "backup", seconds: float = PATIENCE_SECONDS) -> Backup:
        backup = self.until_over(name, seconds)
        assert backup.outcome == "Succeeded", self._all_that_is_known(backup)
        return backup

    def until_gone(self, name: str = "backup", seconds: float = PATIENCE_SECONDS) -> None:
        eventually(lambda: not self.exists(name), f"VMBackup {name} is gone", seconds)

    def sets(self) -> list[Path]:
        """Return every published set of this namespace."""
        return sorted(path.parent for path in self.directory.glob("*/*/*/manifest.json") if "/." not in str(path))

    def leftovers(self) -> list[Path]:
        """Return everything unfinished below the location, and every overlay beside the disks."""
        return [*self.directory.glob("**/.*.partial"), *self.overlays()]

    def events(self, name: str = "backup") -> list[Body]:
        """Return the Events (events.k8s.io) about a backup."""
        listed = json.loads(self.kubectl("get", "events.events.k8s.io", "-o", "json"))["items"]
        return [event for event in listed if event.get("regarding", {}).get("name") == name]

    def until_hosted(self, vm: str, node: Node | None = None) -> None:
        """Return when a node's VMHost shows a VM of this namespace."""
        name = (node or self.stage.nodes["node-1"]).name

        def listed() -> bool:
            shown = self.kubectl("get", "vmhost", name, "--ignore-not-found", "-o", "json")  # made by a new agent
            status = json.loads(shown or "{}").get("status", {})
            return (self.namespace, vm) in {(each["namespace"], each["name"]) for each in status.get("vms", ())}

        eventually(listed, f"VMHost {name} lists {vm}")

    def until_location(self, name: str, ready: str) -> Body:
        """Return a location's Ready condition as soon as it has this status."""
        found: list[Body] = []

        def told() -> bool:
            status = json.loads(self.kubectl("get", "vmbl", name, "-o", "json")).get("status", {})
            found[:] = [each for each in status.get("conditions", ()) if each["status"] == ready]
            return bool(found)

        eventually(told, f"location {name} is Ready={ready}")
        return found[0]

    def until_event(self, reason: str, name: str = "backup") -> Body:
        """Return the first Event about a backup that has this reason."""
        found: list[Body] = []

        def told() -> bool:
            found[:] = [event for event in self.events(name) if event["reason"] == reason]
            return bool(found)

        eventually(told, f"an Event {reason}")
        return found[0]

    # -- leaving ----------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Take everything away, so that the next test finds free nodes."""
        self.kubectl("delete", "vmb", "--all", "--wait=false")
        try:
            eventually(lambda: not self.kubectl("get", "vmb", "-o", "name"), "all backups are gone")
        finally:
            for name in self._locations:
                self.kubectl("delete", "vmbl", name, "--ignore-not-found", "--wait=false")
            self.remove_all()
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def backups(self) -> tuple[str, str, str, str]:
        return names.GROUP, names.VERSION, self.namespace, "vmbackups"

    def _all_that_is_known(self, backup: Backup) -> str:
        logs = [self.stage.controller, *(node.agent for node in self.stage.nodes.values())]
        words = [f"== {program.log}\n{program.last_words()}" for program in logs]
        return "\n".join([json.dumps(backup.body, indent=1), *words])
