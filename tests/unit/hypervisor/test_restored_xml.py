"""What of a VM's definition must change, so that a second one neither disturbs nor reaches the first."""

import xml.etree.ElementTree as ET

import pytest

from vmbackup.errors import Failed
from vmbackup.hypervisor.restored_xml import Isolation, NewVM, restored_xml

FIRST = """
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>demo_web</name>
  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <metadata>
    <vmbackup:owner xmlns:vmbackup='https://vmbackup.dev/domain/1' namespace='demo'/>
    <other:thing xmlns:other='urn:other'>kept</other:thing>
  </metadata>
  <memory unit='GiB'>8</memory>
  <currentMemory unit='GiB'>8</currentMemory>
  <memoryBacking><hugepages/></memoryBacking>
  <cpu mode='host-passthrough'><numa><cell id='0' cpus='0' memory='8' unit='GiB'/></numa></cpu>
  <sysinfo type='smbios'><system>
    <entry name='uuid'>c7a5fdbd-edaf-9455-926a-d65c16db1809</entry><entry name='serial'>X1</entry>
  </system></sysinfo>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>
  </os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/images/web.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/images/golden.qcow2'/></backingStore>
      <target dev='vda' bus='virtio'/><serial>abc</serial></disk>
    <disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/sdz'/><target dev='sda'/></disk>
    <disk type='file' device='disk'><source file='/images/left-out.qcow2'/><target dev='vdc'/></disk>
    <disk type='file' device='disk'><source file='/images/shared.iso'/><target dev='vdd'/><readonly/></disk>
    <disk type='file' device='cdrom'><source file='/isos/cd.iso'/><target dev='sdb'/><readonly/></disk>
    <interface type='network'><mac address='52:54:00:aa:bb:cc'/><source network='default'/>
      <target dev='vnet3'/></interface>
    <serial type='file'><source path='/var/log/web.log'/><log file='/var/log/l'/><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <channel type='unix'><source mode='bind' path='/run/web.agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc' port='5901' autoport='no' socket='/run/vnc'/>
    <hostdev mode='subsystem' type='pci'/>
    <filesystem type='mount'/>
  </devices>
</domain>
"""
NEW = NewVM(
    "demo_back",
    "11111111-2222-3333-4444-555555555555",
    {"vda": ("/new/vda.qcow2", "qcow2"), "sda": ("/new/sda.raw", "raw")},
    nvram="/new/nvram.fd",
)


def made(new: NewVM = NEW, isolation: Isolation | None = None) -> ET.Element:
    return ET.fromstring(restored_xml(FIRST, new, isolation))  # noqa: S314 - our own text


def sources(domain: ET.Element) -> dict[str, str]:
    found = {}
    for disk in domain.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        assert target is not None
        found[target.get("dev", "")] = source.get("file", source.get("dev", "")) if source is not None else ""
    return found


def test_names_of_the_first_vm_are_gone() -> None:
    domain = made()
    text = ET.tostring(domain, encoding="unicode")
    assert domain.findtext("name") == "demo_back"
    assert domain.findtext("uuid") == NEW.uuid
    assert "c7a5fdbd" not in text
    assert domain.get("id") is None
    assert domain.find("genid") is not None
    assert not domain.findtext("genid")
    assert "vmbackup.dev" not in text
    assert "kept" in text
    assert [entry.get("name") for entry in domain.iterfind("sysinfo/system/entry")] == ["serial"]


def test_no_disk_of_the_first_vm_is_written_by_the_second() -> None:
    domain = made()
    assert sources(domain) == {
        "vda": "/new/vda.qcow2",
        "sda": "/new/sda.raw",
        "vdd": "/images/shared.iso",
        "sdb": "/isos/cd.iso",
    }
    first, second = domain.findall("devices/disk")[:2]
    assert (first.get("type"), second.get("type"), second.get("device")) == ("file", "file", "disk")
    assert first.find("backingStore") is None
    driver = first.find("driver")
    assert driver is not None
    assert (driver.get("type"), driver.get("cache")) == ("qcow2", "none")


def test_nothing_else_is_shared_with_the_first_vm() -> None:
    text = ET.tostring(made(), encoding="unicode")
    for taken in ("52:54:00:aa:bb:cc", "vnet3", "/var/log/web.log", "/run/web.agent", "5901", "/run/vnc", "web_VARS"):
        assert taken not in text
    assert made().findtext("os/nvram") == "/new/nvram.fd"
    assert "org.qemu.guest_agent.0" in text


def test_mac_addresses_are_kept_when_asked() -> None:
    kept = NewVM(NEW.name, NEW.uuid, NEW.files, keep_mac_addresses=True)
    domain = made(kept)
    assert "52:54:00:aa:bb:cc" in ET.tostring(domain, encoding="unicode")
    assert domain.findtext("os/nvram") is None or not domain.findtext("os/nvram")


def test_an_isolated_copy_reaches_nothing() -> None:
    domain = made(isolation=Isolation("/new/serial.log", 1 << 30, tcg=True))
    devices = domain.find("devices")
    assert devices is not None
    tags = {device.tag for device in devices}
    assert not tags & {"interface", "hostdev", "filesystem", "graphics", "redirdev", "console"}
    assert sources(domain).keys() == {"vda", "sda", "vdd"}
    (serial,) = devices.findall("serial")
    source = serial.find("source")
    assert source is not None
    assert source.get("path") == "/new/serial.log"
    assert domain.findtext("memory") == str(1 << 20)
    assert domain.find("memoryBacking") is None
    assert (domain.get("type"), domain.find("cpu")) == ("qemu", None)


def test_an_isolated_copy_has_no_more_memory_than_the_vm() -> None:
    assert made(isolation=Isolation("/s", 64 << 30, tcg=False)).findtext("memory") == str(8 << 20)
    assert made(isolation=Isolation("/s", 64 << 30, tcg=False)).get("type") == "kvm"


def test_a_disk_that_the_definition_does_not_have_is_named() -> None:
    with pytest.raises(Failed, match="vdx"):
        made(NewVM("a", "b", {"vdx": ("/new/vdx", "raw")}))


def test_a_document_type_is_not_read() -> None:
    with pytest.raises(Failed, match="document type"):
        restored_xml("<!DOCTYPE x><domain/>", NEW)
