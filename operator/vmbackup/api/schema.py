"""Words for `Field(json_schema_extra=...)` and `ConfigDict`: what the API server checks beyond types.

They change nothing in Python; `crd.py` carries them into the CustomResourceDefinitions. Expressions are CEL
(https://kubernetes.io/docs/reference/using-api/cel/), messages whole sentences that tell what to do.
"""

from collections.abc import Callable
from typing import Any

RULES = "x-kubernetes-validations"
PATTERN_MESSAGE = "x-pattern-message"

Words = dict[str, Any]

TIMESTAMP: Words = {"format": "date-time"}
DISTINCT: Words = {"x-kubernetes-list-type": "set"}
ATOMIC: Words = {"x-kubernetes-list-type": "atomic"}


def keyed_by(field: str) -> Words:
    """A list whose entries are told apart by one field: one entry per value, merged by server-side apply."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}


def rule(expression: str, message: str, *, field: str = "") -> Words:
    """A rule over the value (`self`) and, with `oldSelf`, over its change; `field` (`.path`) is named in the error."""
    return {RULES: [{"rule": expression, "message": message} | ({"fieldPath": field} if field else {})]}


def explained(message: str) -> Words:
    """What the API server says where the field's pattern does not match, instead of the pattern."""
    return {PATTERN_MESSAGE: message}


def frozen_except(*mutable: str, message: str) -> Callable[[Words], None]:
    """Return the hook that makes every property immutable but the named ones; adding and removing count as changes.

    `message` contains `{}` for the property's name.
    """

    def add_rules(schema: Words) -> None:
        schema[RULES] = [
            {"rule": _unchanged(name), "fieldPath": f".{name}", "message": message.format(name)}
            for name in schema["properties"]
            if name not in mutable
        ]

    return add_rules


def _unchanged(name: str) -> str:
    # Not the shorter `self.?x == oldSelf.?x`: the API server cannot bound its cost and refuses the CRD.
    return f"has(self.{name}) ? has(oldSelf.{name}) && self.{name} == oldSelf.{name} : !has(oldSelf.{name})"
