"""The agent: does the backups of one node through its libvirt, and tells what the node has."""

from vmbackup.agent.process import Settings, main

__all__ = ["Settings", "main"]
