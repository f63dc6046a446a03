"""manifest.json: what a published set says of itself, enough to restore it without us."""

from typing import Literal

from pydantic import Field

from vmbackup.api.model import Report
from vmbackup.api.vmbackup import Method


class ManifestDisk(Report):
    target: str
    file: str = Field(description="Image in the set's directory.")
    format: str
    virtual_bytes: int
    stored_bytes: int
    sha256: str = ""
    source: str = Field(description="Path on the node at the time of the backup.")


class Manifest(Report):
    """The record of a finished set. Times are RFC 3339."""

    schema_version: Literal[1] = 1
    backup_name: str
    backup_namespace: str
    backup_uid: str
    vm: str
    domain: str
    domain_uuid: str
    node: str
    method: Method
    method_reason: str
    quiesced: bool
    point_in_time: str = Field(description="All disks show this one moment.")
    started: str
    published: str
    verified: str = Field(description="None, Check or Checksum.")
    libvirt_version: str
    hypervisor_version: str
    operator_version: str
    disks: tuple[ManifestDisk, ...]
    skipped: dict[str, str] = Field(default_factory=dict, description="Disks left out, and why.")
