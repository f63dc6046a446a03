"""VMs as KubeVirt runs them: libvirt and QEMU in a pod of the VM's own, with Debian's packages in the place of its own.

What stands for KubeVirt here is the shape: labels, volumes, users and sockets of a launcher pod, and the fields of the
VirtualMachineInstance that the operator reads. Nothing of KubeVirt itself runs.
"""

import json
import os
import uuid
from pathlib import Path
from typing import Any

from e2e.pushed import Pushed
from integration.system.backup import eventually
from testbed import proof
from testbed.containers import LAUNCHER
from testbed.guests import Disk, domain_xml, start_guest
from testbed.images import disk_image
from testbed.node import Node
from testbed.realcluster import RealCluster

MIB = 1 << 20
QEMU_USER = 107
PODS = Path("/var/lib/kubelet/pods")
DISK = Path("/run/kubevirt-private/vmi-disks/root/disk.img")  # in the pod
VOLUMES = {
    "private": ("/run/kubevirt-private", None),
    "vmi-disks": ("/run/kubevirt-private/vmi-disks", None),
    "libvirt-runtime": ("/run/libvirt", None),
    "hotplug-disks": ("/run/kubevirt/hotplug-disks", "HostToContainer"),
}
READY_SECONDS = 120


def install_vmi_kind(cluster: RealCluster) -> None:
    """Make kubevirt.io/v1 VirtualMachineInstance known, as loosely as the operator needs it."""
    names = {"kind": "VirtualMachineInstance", "plural": "virtualmachineinstances", "shortNames": ["vmi", "vmis"]}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    cluster.plane.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "virtualmachineinstances.kubevirt.io"},
            "spec": {"group": "kubevirt.io", "names": names, "scope": "Namespaced", "versions": [version]},
        }
    )


class Launcher(Pushed):
    """One VirtualMachineInstance and its launcher pod on a node, with an idle VM that has one raw disk of data.

    Attributes: `name`, `domain` (libvirt's name), `pod` (its name), `pod_uid`, `session`.
    """

    def __init__(self, cluster: RealCluster, node: Node, namespace: str, name: str, *, session: bool) -> None:
        self.cluster, self.node, self.namespace, self.name, self.session = cluster, node, namespace, name, session
        self.domain = f"{namespace}_{name}"
        self.pod, self.pod_uid = "", ""
        self._sockets: list[int] = []

    def start(self, data_bytes: int = 64 * MIB) -> None:
        """Make the instance and its pod, and start the VM in it."""
        self.start_pod()
        image = self.volume("vmi-disks") / "root" / "disk.img"
        image.parent.mkdir()
        disk_image(image, "raw", 5 * data_bytes // 4, data_bytes)
        if self.session:
            for path in (image.parent, image):
                os.chown(path, QEMU_USER, QEMU_USER)
        start_guest(self.uri, domain_xml(self.domain, [Disk(DISK, "vda", "raw")]))

    def start_pod(self) -> None:
        """Make one more launcher pod, name it in the instance's status, and return when its daemon answers."""
        if not self._instance():
            self._apply_instance({})
        instance = self._instance()
        self.pod = f"virt-launcher-{self.name}-{uuid.uuid4().hex[:5]}"
        self.cluster.plane.apply(self._pod(instance["metadata"]["uid"]))
        wait = f"--timeout={READY_SECONDS}s"
        self.cluster.plane.kubectl("-n", self.namespace, "wait", "--for=condition=Ready", wait, f"pod/{self.pod}")
        shown = self.cluster.plane.kubectl(
            "-n", self.namespace, "get", "pod", self.pod, "-o", "jsonpath={.metadata.uid}"
        )
        self.pod_uid = shown
        status = {"phase": "Running", "nodeName": self.node.name, "activePods": {self.pod_uid: self.node.name}}
        self.set_status(status)

    def set_status(self, status: dict[str, Any]) -> None:
        """Write fields of the instance's status, as KubeVirt's controllers would."""
        self._apply_instance(status)

    def kill_daemon(self) -> None:
        """SIGKILL the daemon in the pod; the pod's shell starts another."""
        self.exec("sh", "-c", "kill -KILL $(pidof libvirtd)")

    def delete_pod(self) -> None:
        """Delete the pod, as an eviction does."""
        self.cluster.plane.kubectl("-n", self.namespace, "delete", "pod", self.pod, "--grace-period=1", "--wait=false")

    def exec(self, *command: str) -> str:
        """Run a command in the pod and return its stdout."""
        return self.cluster.plane.kubectl("-n", self.namespace, "exec", self.pod, "-c", "compute", "--", *command)

    def volume(self, name: str) -> Path:
        """Return where a volume of the pod is seen from outside the node."""
        return self.node.outside(PODS / self.pod_uid / "volumes/kubernetes.io~empty-dir" / name)

    @property
    def uri(self) -> str:
        """The libvirt URI of the daemon in the pod, for this process only; a new one after each restart of it."""
        mode, name = ("session", "virtqemud-sock") if self.session else ("system", "libvirt-sock")
        # The path is longer than an address of a socket may be.
        self._sockets.append(os.open(self.volume("libvirt-runtime") / name, os.O_PATH))
        return f"qemu+unix:///{mode}?socket=/proc/self/fd/{self._sockets[-1]}"

    def disks(self) -> dict[str, str]:
        """Return the VM's disks as they are seen from outside the node."""
        return {"vda": str(self.volume("vmi-disks") / "root" / "disk.img")}

    def assert_identical(self, backup: proof.Set) -> None:
        """The set is what the disk is, the VM runs on it, and no location is left mounted in the pod."""
        findings = [*proof.identical(backup, self.disks()), proof.home(self.uri, self.domain, {"vda": str(DISK)})]
        assert all(finding.good for finding in findings), findings
        self.assert_nothing_mounted()

    def assert_nothing_mounted(self) -> None:
        """Neither the pod nor the node has anything mounted below the pod's volume hotplug-disks."""
        inside = VOLUMES["hotplug-disks"][0]
        assert f" {inside}/" not in self.exec("cat", "/proc/mounts")
        mounts = self.node.host.run("cat", "/proc/mounts")
        assert f"{self.pod_uid}/volumes/kubernetes.io~empty-dir/hotplug-disks/" not in mounts
        assert list(self.volume("hotplug-disks").iterdir()) == []

    def remove(self) -> None:
        """Delete the instance and its pods."""
        for socket in self._sockets:
            os.close(socket)
        self._sockets.clear()
        pods = ("-l", f"vmi.kubevirt.io/id={self.name}")
        self.cluster.plane.kubectl("-n", self.namespace, "delete", "vmi", self.name, "--ignore-not-found")
        self.cluster.plane.kubectl("-n", self.namespace, "delete", "pods", *pods, "--grace-period=1", "--wait=false")
        get = ("-n", self.namespace, "get", "pods", *pods, "-o", "name")
        eventually(lambda: not self.cluster.plane.kubectl(*get), f"the pods of {self.name} are gone")

    def _instance(self) -> dict[str, Any]:
        get = ("-n", self.namespace, "get", "vmi", self.name, "--ignore-not-found", "-o", "json")
        return dict(json.loads(self.cluster.plane.kubectl(*get) or "{}"))

    def _apply_instance(self, status: dict[str, Any]) -> None:
        head = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"}
        metadata = {"name": self.name, "namespace": self.namespace}
        self.cluster.plane.apply(head | {"metadata": metadata, "spec": {"domain": {}}, "status": status})

    def _pod(self, instance_uid: str) -> dict[str, Any]:
        labels = {
            "kubevirt.io": "virt-launcher",
            "kubevirt.io/created-by": instance_uid,
            "vmi.kubevirt.io/id": self.name,
        }
        annotations = {"kubevirt.io/domain": self.name}
        mounts = [
            {"name": name, "mountPath": path} | ({"mountPropagation": propagation} if propagation else {})
            for name, (path, propagation) in VOLUMES.items()
        ]
        user = {"runAsUser": QEMU_USER, "runAsGroup": QEMU_USER, "runAsNonRoot": True, "fsGroup": QEMU_USER}
        rights: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        address = "session?socket=/run/libvirt/virtqemud-sock" if self.session else "system"
        compute = {
            "name": "compute",
            "image": LAUNCHER,
            "imagePullPolicy": "Never",
            "command": ["launcher-session" if self.session else "launcher-system"],
            "securityContext": rights if self.session else {},
            "volumeMounts": mounts,
            "readinessProbe": {
                "exec": {
                    "command": ["virsh", "-c", f"qemu+unix:///{address}" if self.session else "qemu:///system", "list"]
                },
                "periodSeconds": 1,
                "timeoutSeconds": 10,
            },
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.pod,
                "namespace": self.namespace,
                "labels": labels,
                "annotations": annotations,
            },
            "spec": {
                "nodeName": self.node.name,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "securityContext": user if self.session else {},
                "containers": [compute],
                "volumes": [{"name": name, "emptyDir": {}} for name in VOLUMES],
            },
        }
