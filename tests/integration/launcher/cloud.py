"""A cluster with a controller and the agent of one node, which has no libvirt of its own; tenants with VMs in pods."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration.launcher.pod import LauncherPod
from integration.system.backup import LOOK_SECONDS, PATIENCE_SECONDS, Backup, eventually
from integration.system.programs import ANY_METRICS_PORT, COMMAND, SYSTEM_NAMESPACE, Program, Stage
from testbed.controlplane import ControlPlane
from vmbackup.api import names

NODE = "node-1"
VMI_CRD = Path(__file__).with_name("vmi-crd.yaml")


class Cloud:
    """Starts its programs at once; the kind VirtualMachineInstance is not there before `install_kubevirt`."""

    def __init__(self, cluster: ControlPlane, directory: Path, kubelet: Path) -> None:
        self.cluster, self.directory = cluster, directory
        self._stage = Stage(cluster, directory)
        self.controller = self._stage.controller
        cluster.placeholder_pod(SYSTEM_NAMESPACE, f"agent-{NODE}", "agent", NODE)
        kubeconfig = cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "agent", f"agent-{NODE}")
        flags = ["--node", NODE, "--state", str(directory / "state"), "--kubelet", str(kubelet), "--probe-port", "0"]
        command = [*COMMAND, "agent", "--namespace", SYSTEM_NAMESPACE, *flags, *ANY_METRICS_PORT]
        nowhere = f"qemu+unix:///system?socket={directory}/no-libvirt-here"
        self.agent = Program(
            command, directory / "agent.log", {"KUBECONFIG": str(kubeconfig), "LIBVIRT_DEFAULT_URI": nowhere}
        )
        self.controller.start()
        self.agent.start()

    def install_kubevirt(self) -> None:
        self.cluster.apply(VMI_CRD)

    def stop(self) -> None:
        for program in (self.controller, self.agent):
            if program.runs:
                program.kill()


class Tenant:
    """One namespace with a location of its own."""

    def __init__(self, cloud: Cloud, namespace: str) -> None:
        self.cloud, self.namespace = cloud, namespace
        self.directory = cloud.directory / "locations" / namespace
        self.directory.mkdir(parents=True)
        cloud.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        spec = {
            "directory": {"path": str(self.directory)},
            "allowedNamespaces": {"names": [namespace]},
            "minFree": "1Mi",
        }
        location = {"kind": "VMBackupLocation", "metadata": {"name": namespace}, "spec": spec}
        cloud.cluster.apply({"apiVersion": names.API_VERSION, **location})

    def make_vmi(self, name: str, pod: LauncherPod | None = None, **status: Any) -> None:
        """Show a VirtualMachineInstance that runs in a pod on the node, as KubeVirt would; `status` adds to that."""
        running = {"phase": "Running", "nodeName": NODE, "activePods": {pod.uid: NODE}} if pod else {}
        body = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {"namespace": self.namespace, "name": name},
            "spec": {},
            "status": {**running, **status},
        }
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(body))

    def back_up(self, vmi: str, name: str = "backup", **spec: Any) -> None:
        source = {"kind": "VirtualMachineInstance", "name": vmi}
        full = {"source": source, "location": self.namespace, **spec}
        metadata = {"namespace": self.namespace, "name": name}
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackup", "metadata": metadata, "spec": full}
        self.kubectl("create", "-f", "-", input=json.dumps(body))

    def get(self, name: str = "backup") -> Backup:
        return Backup(json.loads(self.kubectl("get", "vmbackups.vmbackup.dev", name, "-o", "json")))

    def until(self, test: Callable[[Backup], object], name: str = "backup") -> Backup:
        """Return the backup as soon as the test holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            backup = self.get(name)
            if test(backup):
                return backup
            logs = f"{self.cloud.controller.last_words()}\n{self.cloud.agent.last_words()}"
            assert time.monotonic() < deadline, f"never came: {json.dumps(backup.status, indent=1)}\n{logs}"
            time.sleep(LOOK_SECONDS)

    def until_over(self, name: str = "backup") -> Backup:
        return self.until(lambda backup: backup.over, name)

    def until_waits(self, words: str, name: str = "backup") -> Backup:
        return self.until(lambda backup: words in backup.message and not backup.over, name)

    def cancel_by_deletion(self) -> None:
        """Delete the backup without waiting for its end."""
        self.kubectl("delete", "vmbackups.vmbackup.dev", "backup", "--wait=false")

    def until_gone(self) -> None:
        """Return when the deleted backup is gone."""
        get = ("get", "vmbackups.vmbackup.dev", "backup", "--ignore-not-found", "-o", "name")
        eventually(lambda: not self.kubectl(*get), "the backup is gone")

    def sets(self) -> list[Path]:
        return [path for path in self.directory.glob("*/*/*") if not path.name.startswith(".")]

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - subprocess calls it so
        return self.cloud.cluster.kubectl("--namespace", self.namespace, *arguments, input=input)
