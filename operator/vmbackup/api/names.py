"""Every name that others may know us by, once."""

import re
from typing import NamedTuple

GROUP = "vmbackup.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "vmbackup-all"  # not "vmbackup": kubectl takes a category before a singular name

FINALIZER = f"{GROUP}/work-in-progress"
FINALIZER_SET = f"{GROUP}/set"  # the set is to be removed with the VMBackup
# On a VMBackup. The two labels are set by a schedule; the annotations by people, and by retention.
LABEL_SCHEDULE = f"{GROUP}/schedule"
LABEL_RUN = f"{GROUP}/run"  # minutes since the epoch of the time of the schedule, or run-<hash> of a trigger
ANNOTATION_HOLD = f"{GROUP}/hold"  # "false" and nothing are no hold; all else is who or what holds it
ANNOTATION_IMPORTED = f"{GROUP}/imported"  # UID in the manifest of a set that was there before this resource
ANNOTATION_REMOVED_BY = f"{GROUP}/removed-by"  # who decided to remove the set, where it was no user
RETENTION_OF = "retention of schedule "  # what ANNOTATION_REMOVED_BY then begins with

FIELD_MANAGER_CONTROLLER = "vmbackup-controller"
FIELD_MANAGER_AGENT = "vmbackup-agent"
LEASE_CONTROLLER = "vmbackup-controller"
LEASE_AGENT_PREFIX = "vmbackup-agent-"

# The element that a plain domain may carry in <metadata> to name the namespace it belongs to:
#   <vmbackup:owner xmlns:vmbackup="https://vmbackup.dev/domain/1" namespace="team-a"/>
METADATA_NAMESPACE = "https://vmbackup.dev/domain/1"
METADATA_ELEMENT = "owner"

MANIFEST_FILE = "manifest.json"
DOMAIN_FILE = "domain.xml"
CHECKSUMS_FILE = "SHA256SUMS"

_OVERLAY = re.compile(r"\.vmbackup\.([0-9A-Za-z-]+)\.[0-9]+\.[^./\s]+\.overlay")
_PARTIAL = re.compile(
    r"((?P<location>.*)/(?P<vm>[^/]+/[^/]+)/)?"
    r"\.(?P<set>[^/]+)\.(?P<uid>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(?P<attempt>[0-9]+)\.partial"
)


def is_ours(key: str) -> bool:
    """Return whether a label or an annotation is one of ours."""
    return key.startswith(f"{GROUP}/")


class Partial(NamedTuple):
    """What the path of a working directory says. Of a name alone: no location, and `set_path` is the set's name."""

    location: str
    set_path: str
    uid: str
    attempt: int


def partial_name(set_name: str, uid: str, attempt: int) -> str:
    """Return the name of the working directory of one attempt; it names the backup that may remove it."""
    return f".{set_name}.{uid}.{attempt}.partial"


def read_partial(path: str) -> Partial | None:
    """Read the name of a working directory, or its path in a location; None when it is not ours."""
    match = _PARTIAL.fullmatch(path)
    if match is None:
        return None
    set_path = f"{match['vm']}/{match['set']}" if match["vm"] else match["set"]
    return Partial(match["location"] or "", set_path, match["uid"], int(match["attempt"]))


def partial_uid(name: str) -> str | None:
    """Return the VMBackup UID that the name of a working directory carries, None when it is not ours."""
    partial = read_partial(name)
    return partial.uid if partial else None


def overlay_name(uid: str, attempt: int, target: str) -> str:
    """Return the file name of our overlay for one disk; it names the backup so that it can be told from others'."""
    return f".vmbackup.{uid}.{attempt}.{target}.overlay"


def overlay_uid(file_name: str) -> str | None:
    """Return the VMBackup UID that an overlay file name carries, None when it is not ours."""
    match = _OVERLAY.fullmatch(file_name)
    return match[1] if match else None
