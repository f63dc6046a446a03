"""The libvirt daemon that runs the VM: the only room that imports libvirt."""
