"""A tenant's VMRestores and the VMs that come of them, through kubectl and virsh."""

import json
import shutil
import time
from collections.abc import Callable
from typing import Any

from integration.system.backup import LOOK_SECONDS, PATIENCE_SECONDS, Body
from integration.system.machines import remove_domain
from integration.system.tenant import Tenant
from vmbackup.api import names


class Restores:
    """A tenant's VMRestores and the VMs that come of them."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant

    def ask(self, name: str, target: Body, source: Body | None = None, **spec: Any) -> None:
        """Apply a VMRestore with kubectl. Without a source: the VMBackup `backup`."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "VMRestore",
            "metadata": {"name": name, "namespace": self.tenant.namespace},
            "spec": {"source": source or {"backup": "backup"}, "target": target} | spec,
        }
        self.tenant.kubectl("apply", "-f", "-", input=json.dumps(body))

    def get(self, name: str) -> Body:
        return dict(json.loads(self.tenant.kubectl("get", "vmr", name, "-o", "json")))

    def until(self, name: str, test: Callable[[Body], object]) -> Body:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            body = self.get(name)
            if test(body.get("status", {})):
                return body
            if time.monotonic() > deadline:
                agent = self.tenant.stage.nodes["node-1"].agent
                raise AssertionError(f"never came: {json.dumps(body, indent=1)}\n{agent.last_words()}")
            time.sleep(LOOK_SECONDS)

    def over(self, name: str) -> Body:
        """Return the status of the restore when it is over."""
        return dict(self.until(name, lambda status: status.get("phase") == "Done")["status"])

    def condition(self, status: Body, type_: str) -> Body:
        return next(dict(each) for each in status["conditions"] if each["type"] == type_)

    def state(self, domain: str) -> str:
        return self.tenant.virsh("domstate", domain).strip()

    def leave(self) -> None:
        self.tenant.kubectl("delete", "vmr", "--all")
        for vm in ("back", "now"):
            remove_domain(self.tenant.stage.nodes["node-1"], f"{self.tenant.namespace}_{vm}")
        images = self.tenant.stage.nodes["node-1"].host.images / self.tenant.namespace
        shutil.rmtree(images, ignore_errors=True)
