"""A VM whose push job is held and let go from outside, as somebody at virsh could."""

import libvirt


class Pushed:
    """Attributes: `uri` of its libvirt daemon, `domain`."""

    uri: str
    domain: str

    def bandwidth(self) -> int:
        """Return the speed limit of the job on its first disk in bytes per second, 0 when there is none."""
        try:
            connection = libvirt.open(self.uri)
        except (libvirt.libvirtError, FileNotFoundError):
            return 0  # the daemon is being started
        try:
            return int(connection.lookupByName(self.domain).blockJobInfo("vda").get("bandwidth", 0))
        except libvirt.libvirtError:
            return 0
        finally:
            connection.close()

    def hasten(self) -> bool:
        """Take the limit off the job on its first disk; return whether there was a job to take it off."""
        try:
            connection = libvirt.open(self.uri)
        except (libvirt.libvirtError, FileNotFoundError):
            return False
        try:
            connection.lookupByName(self.domain).blockJobSetSpeed("vda", 0)
        except libvirt.libvirtError:
            return False
        else:
            return True
        finally:
            connection.close()
