"""Runs before `helm uninstall`. Exit code 1 stops it: a VM may be on an overlay that nobody would merge any more."""

import sys

from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import VMBACKUP, Resources

try:
    backups = list(Resources(Client(None, field_manager="vmbackup-uninstall")).list(VMBACKUP))
except NotFound:
    backups = []  # without the kind nothing is under way
under_way = [
    f"{backup['metadata']['namespace']}/{backup['metadata']['name']} on node {backup['status']['node']}"
    for backup in backups
    if backup.get("status", {}).get("node") and backup["status"].get("phase") != "Done"
]
if under_way:
    print(f"{len(under_way)} backup(s) are under way: {', '.join(under_way[:10])}")
    print("Await or cancel them, then uninstall again. With --no-hooks you uninstall regardless: see docs/install.md.")
sys.exit(1 if under_way else 0)
