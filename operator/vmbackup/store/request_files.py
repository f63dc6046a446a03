"""Requests without a cluster: one document in a file, held to what the schema would refuse."""

import uuid
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.api.restore import VMRestore
from vmbackup.api.vmbackup import VMBackup
from vmbackup.errors import Refused

NAME_MAX = 63  # as in the CustomResourceDefinition: the name becomes part of a directory name
Request = TypeVar("Request", VMBackup, VMRestore)


def read_document(path: Path, model: type[Request]) -> Request:
    """Read a VMBackup or VMRestore from a file, of namespace default when it names none; it gets a UID of its own.

    Raises: Refused: the file cannot be read, or the schema would refuse it.
    """
    kind = model.__name__
    try:
        body: Any = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(Reason.INVALID_SPEC, f"{path}: {error}") from None
    if not isinstance(body, dict) or body.get("kind") != kind:
        raise Refused(Reason.INVALID_SPEC, f"{path}: holds no {kind}; write one document of kind {kind}.")
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise Refused(Reason.INVALID_SPEC, f"{path}: metadata: must be a mapping with a name.")
    body = {**body, "metadata": {"namespace": "default", **metadata, "uid": str(uuid.uuid4())}}
    body.pop("status", None)
    if len(str(metadata.get("name", ""))) > NAME_MAX:
        raise Refused(Reason.INVALID_SPEC, f"{path}: metadata.name: at most {NAME_MAX} characters.")
    try:
        return model.parse(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(Reason.INVALID_SPEC, f"{path}: {where}: {first['msg']}") from None
