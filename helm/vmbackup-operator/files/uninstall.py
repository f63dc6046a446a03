"""Runs before `helm uninstall`. Exit code 1 stops it: a VM may be on an overlay that nobody would merge any more."""

import sys
from collections.abc import Iterator

from vmbackup.cluster.client import Body, Client
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import VMBACKUP, VMRESTORE, Kind, Resources

resources = Resources(Client(None, field_manager="vmbackup-uninstall"))


def bodies(kind: Kind) -> Iterator[Body]:
    try:
        yield from resources.list(kind)
    except NotFound:
        return  # without the kind nothing is under way


under_way = [
    f"{kind.name} {body['metadata']['namespace']}/{body['metadata']['name']} on node {body['status']['node']}"
    for kind in (VMBACKUP, VMRESTORE)
    for body in bodies(kind)
    if body.get("status", {}).get("node") and body["status"].get("phase") != "Done"
]
if under_way:
    print(f"{len(under_way)} under way: {', '.join(under_way[:10])}")
    print("Await or cancel them, then uninstall again. With --no-hooks you uninstall regardless: see docs/install.md.")
sys.exit(1 if under_way else 0)
