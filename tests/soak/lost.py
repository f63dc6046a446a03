"""libvirt 9.0 can lose a VM when it is killed in the middle of a pivot: then a human must help, and does here."""

from threading import Event

import libvirt

from soak.guests import Guest
from soak.record import Record
from soak.scene import Scene
from testbed.lost import bring_back

LOOK_SECONDS = 4.0


def help_lost_vms(scene: Scene, over: Event, record: Record) -> None:
    """Look for lost VMs until it is over. One that is only just ending or starting is none."""
    seen: dict[str, int | None] = {}
    while not over.wait(LOOK_SECONDS):
        for name, guest in scene.guests.items():
            before, seen[name] = seen.get(name), lost_process(scene, guest)
            if seen[name] is not None and seen[name] == before:
                record.count("VMs that libvirt had lost, helped by hand")
                record.say(f"libvirt has lost VM {name}, which runs as process {seen[name]}")
                record.say(f"VM {name} really uses {bring_back(scene.host, guest.domain, guest.uuid)}")
                guest.start()
                seen[name] = None


def lost_process(scene: Scene, guest: Guest) -> int | None:
    """Return the QEMU of a VM that libvirt takes for off."""
    try:
        off = guest.state() == "off"
    except libvirt.libvirtError:
        return None
    return scene.host.qemu_pid(guest.uuid) if off else None
