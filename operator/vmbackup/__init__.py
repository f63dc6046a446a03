"""Back up running libvirt virtual machines, from Kubernetes or from the shell."""

__version__ = "0.1.0"
