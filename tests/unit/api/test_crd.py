"""What the CRDs promise beyond being up to date; the real API server's word is in tests/integration/kube."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from vmbackup.api import crd, names
from vmbackup.api.model import Document
from vmbackup.api.structural import structural

SAMPLES = Path(__file__).resolve().parents[3] / "manifests" / "samples"
CRDS = {name: yaml.safe_load(text) for name, text in crd.files().items()}


def schemas(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of a CRD with its path."""
    yield path, node
    for name, part in node.get("properties", {}).items():
        yield from schemas(part, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in node:
            yield from schemas(node[word], f"{path}[]")


@pytest.mark.parametrize("name", CRDS)
def test_every_rule_speaks_in_sentences(name: str) -> None:
    root = CRDS[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    messages = {
        rule["rule"]: rule["message"]
        for _, schema in schemas(root)
        for rule in schema.get("x-kubernetes-validations", ())
    }
    assert not [message for message in messages.values() if not message.endswith((".", ")."))]


@pytest.mark.parametrize("name", CRDS)
def test_kubectl_get_all_does_not_show_ours(name: str) -> None:
    assert CRDS[name]["spec"]["names"]["categories"] == [names.CATEGORY]
    assert names.CATEGORY != "all"


def test_no_pattern_is_shown_to_users() -> None:
    # A pattern would be printed as it is: whoever adds one adds `explained(...)` with it.
    found = [
        f"{name}{path}"
        for name, definition in CRDS.items()
        for path, schema in schemas(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if "pattern" in schema
    ]
    assert not found


def test_a_status_has_no_defaults_that_nobody_reported() -> None:
    root = CRDS["vmbackups.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    status = root["properties"]["status"]
    assert status["default"] == {"observedGeneration": 0, "phase": "Pending"}
    assert not [path for path, schema in schemas(status) if path and "default" in schema]


class Unbounded(Document):
    text: str = Field(description="Any length.")


class UnboundedMap(Document):
    labels: dict[str, Annotated[str, Field(max_length=1)]] = Field(description="Any number.")


class Undescribed(Document):
    number: int


class Either(Document):
    value: int | bool = Field(description="Two types.")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Unbounded, r"spec\.text: bound the field \(max_length in the model, maxLength"),
        (UnboundedMap, r"spec\.labels: bound the field \(max_length in the model, maxProperties"),
        (Undescribed, r"spec\.number: give the field a description"),
        (Either, r"spec\.value: structural.py cannot translate anyOf"),
    ],
)
def test_a_field_that_no_crd_should_have_is_named(model: type[Document], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        structural(model.model_json_schema(), {}, "spec", defaults=True)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_samples_are_valid(path: Path) -> None:
    body = yaml.safe_load(path.read_text())
    model = {resource.model.__name__: resource.model for resource in crd.RESOURCES}[body["kind"]]
    assert model.model_validate(body).model_dump()["metadata"]["name"]
