"""The VMs of one namespace on the nodes, as somebody at virsh sees them."""

from pathlib import Path
from typing import Any

import libvirt

from integration.system.backup import eventually
from integration.system.programs import Node, Stage
from testbed.guests import Disk, Options, domain_xml, start_guest
from testbed.images import disk_image

MIB = 1 << 20


class Machines:
    """Without a `node`, node-1 is meant. What is made here is removed by `remove_all`."""

    def __init__(self, stage: Stage, namespace: str) -> None:
        self.stage, self.namespace = stage, namespace
        self._domains: list[tuple[Node, str]] = []
        self._images: list[Path] = []

    def vm(self, name: str = "web", node: Node | None = None, *, data_bytes: int = MIB, **more: Any) -> str:
        """Start a VM of this namespace and return its domain's name.

        more: `disks` (targets, default vda), `domain` (default `<namespace>_<name>`), `metadata` (one XML element),
        `running`.
        """
        node = node or self.stage.nodes["node-1"]
        domain = more.get("domain", f"{self.namespace}_{name}")
        disks = []
        for target in more.get("disks", ("vda",)):
            image = node.host.images / f"{domain}.{target}.qcow2"
            disks.append(Disk(disk_image(image, "qcow2", max(64 * MIB, 2 * data_bytes), data_bytes), target))
            self._images.append(image)
        xml = domain_xml(domain, disks, Options(metadata=more.get("metadata")))
        self._domains.append((node, domain))
        if more.get("running", True):
            start_guest(node.host.uri, xml)
        else:
            connection = libvirt.open(node.host.uri)
            connection.defineXML(xml)
            connection.close()
        return domain

    def release(self, domain: str) -> None:
        """Let a held push job run at full speed."""
        connection = libvirt.open(self.stage.nodes["node-1"].host.uri)
        connection.lookupByName(domain).blockJobSetSpeed("vda", 0)
        connection.close()

    def remove(self, domain: str, node: Node | None = None) -> None:
        """Take a VM and its images away."""
        node = node or self.stage.nodes["node-1"]
        remove_domain(node, domain)
        self._domains.remove((node, domain))
        for image in node.host.images.glob(f"{domain}.*"):
            image.unlink()

    def bandwidth(self, domain: str) -> int:
        """Return the speed limit of the job on disk vda in bytes per second, 0 when there is none."""
        connection = libvirt.open(self.stage.nodes["node-1"].host.uri)
        try:
            return int(connection.lookupByName(domain).blockJobInfo("vda").get("bandwidth", 0))
        finally:
            connection.close()

    def remove_all(self) -> None:
        for node, domain in self._domains:
            remove_domain(node, domain)
        for image in self._images:
            image.unlink(missing_ok=True)

    def sources(self, domain: str, node: Node | None = None) -> list[str]:
        """Return the files that the VM's disks are on."""
        text = self.virsh("domblklist", domain, node=node)
        return [line.split()[1] for line in text.splitlines()[2:] if line.strip()]

    def is_home(self, domain: str, node: Node | None = None) -> bool:
        """Return whether the VM runs on its own images and no job works on it."""
        on_images = set(self.sources(domain, node)) <= {str(image) for image in self._images}
        idle = "None" in self.virsh("domjobinfo", domain, node=node)
        return on_images and idle and self.virsh("domstate", domain, node=node).strip() == "running"

    def job_runs(self, domain: str) -> bool:
        return "None" not in self.virsh("domjobinfo", domain)

    def until_home(self, domain: str, node: Node | None = None) -> None:
        eventually(lambda: self.is_home(domain, node), f"{domain} is home")

    def virsh(self, *arguments: str, node: Node | None = None) -> str:
        host = (node or self.stage.nodes["node-1"]).host
        return host.run("virsh", *arguments)

    def overlays(self) -> list[Path]:
        """Return every overlay of ours beside the disks."""
        return [path for image in self._images for path in image.parent.glob(".vmbackup.*")]


def remove_domain(node: Node, name: str) -> None:
    connection = libvirt.open(node.host.uri)
    try:
        domain = connection.lookupByName(name)
        if domain.isActive():
            domain.destroy()
        if domain.isPersistent():
            domain.undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
    finally:
        connection.close()
