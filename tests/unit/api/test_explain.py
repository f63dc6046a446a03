"""`kubectl explain` reads well: every field of every resource is described in one or two plain sentences."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from vmbackup.api import crd

FEWEST_WORDS, MOST_WORDS = 4, 65


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Return every field below, with its description. `metadata` is Kubernetes' own: the API server describes it."""
    for name, part in schema.get("properties", {}).items():
        if path or name != "metadata":
            yield f"{path}.{name}", part.get("description", "")
            yield from fields(part, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from fields(schema[inner], f"{path}[]")


def described() -> list[Any]:
    found = []
    for resource in crd.RESOURCES:
        kind, schema = resource.model.__name__, crd.root_schema(resource)
        found += [pytest.param(path, text, id=f"{kind}{path}") for path, text in fields(schema, "")]
        found.append(pytest.param(kind, schema["description"], id=kind))
    assert len(found) > 100
    return found


def complaints(path: str, text: str) -> list[str]:
    """Return what is wrong with a description."""
    words, sentences = text.split(), re.split(r"(?<=[.!?])\s+(?=[A-Z'`])", text.strip())
    name = re.findall(r"\w+", path)[-1]
    found = {
        "it begins with no capital letter": not re.match(r"[A-Z]", text),
        "it ends without a full stop": not text.endswith("."),
        f"it has {len(words)} words": not FEWEST_WORDS <= len(words) <= MOST_WORDS,
        f"it has {len(sentences)} sentences": len(sentences) > 2,
        "it only repeats the field's name": re.sub(r"\W|the\b", "", text.lower()) == name.lower(),
    }
    return [complaint for complaint, holds in found.items() if holds]


@pytest.mark.parametrize(("path", "text"), described())
def test_field_is_described_in_one_or_two_sentences(path: str, text: str) -> None:
    assert complaints(path, text) == [], text


@pytest.mark.parametrize(
    "text", ["", "The set.", "size of the set in bytes.", "Size of the set in bytes", "A b c. " * 3]
)
def test_poor_descriptions_are_found(text: str) -> None:
    assert complaints(".status.storedBytes", text)


@pytest.mark.parametrize("resource", crd.RESOURCES, ids=lambda resource: resource.model.__name__)
def test_column_of_kubectl_get_is_described(resource: crd.Resource) -> None:
    assert [column.name for column in resource.columns if not column.description.endswith(".")] == []
