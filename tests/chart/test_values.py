"""Values: what is wrong is refused in words, what is explained exists, and the generated files keep up."""

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from chart.programs import CHART, ROOT, Refused, helm, render
from vmbackup import __version__
from vmbackup.api import crd, names

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return {"a": {"b": value}} for "a.b"."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def test_lint_is_strict_and_content() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("controller.replica", 3, "additional properties 'replica' not allowed"),
        ("agents.uri", "x", "additional properties 'agents' not allowed"),
        ("controller.replicas", 0, "minimum: got 0, want 1"),
        ("controller.replicas", "two", "got string, want integer"),
        ("image.pullPolicy", "always", "'Always', 'IfNotPresent', 'Never'"),
        ("image.digest", "sha256:abc", "does not match pattern"),
        ("image.repository", "https://registry/image", "does not match pattern"),
        ("agent.directories.locations", ["srv/vmbackup"], "does not match pattern"),
        ("agent.directories.locations", ["/"], "does not match pattern"),
        ("agent.directories.locations", ["/srv/../etc"], "does not match pattern"),
        ("agent.directories.locations", ["/srv//a"], "does not match pattern"),
        ("agent.directories.locations", ["/srv/a/"], "does not match pattern"),
        ("agent.directories.locations", ["/srv/a", "/srv/a"], "are equal"),
        ("agent.directories.images", ["/a: b"], "does not match pattern"),
        ("agent.uri", "qemu+tcp://host/system", "does not match pattern"),
        ("agent.graceSeconds", 0, "minimum: got 0, want 1"),
        ("agent.updateStrategy.type", "Recreate", "'RollingUpdate', 'OnDelete'"),
        ("agent.updateStrategy.rollingUpdate.maxUnavailable", 0, "minimum: got 0, want 1"),
        ("agent.namespace.name", "Vmbackup", "does not match pattern"),
        ("metrics.port", 70000, "maximum: got 70,000, want 65,535"),
        ("crds.install", "yes", "got string, want boolean"),
    ],
)
def test_bad_value_is_refused_by_its_name(path: str, value: Any, said: str) -> None:
    with pytest.raises(Refused) as refused:
        render(nested(path, value))
    assert said in str(refused.value)
    assert path.split(".", maxsplit=1)[0] in str(refused.value)


@pytest.mark.parametrize("path", ["/srv/vmbackup", "/mnt/nfs-1/a_b.c", "/srv/..data", "/x"])
def test_ordinary_directory_is_taken(path: str) -> None:
    assert render(nested("agent.directories.locations", [path]))


def test_schema_knows_every_value_and_nothing_else() -> None:
    """Every object of the schema is closed, and names what values.yaml names."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {"$ref": "#/$defs/strings"}
    differing = []

    def compare(path: str, values: dict[str, Any], there: dict[str, Any]) -> None:
        known = set(there["properties"]) - {"global"}
        assert there["additionalProperties"] is False, path
        if known != set(values):
            differing.append((path, known ^ set(values)))
        for name in known & set(values):
            below = there["properties"][name]
            if isinstance(values[name], dict) and "properties" in below and below != free:
                compare(f"{path}.{name}", values[name], below)

    compare("", VALUES, schema)
    # Options without a default of ours.
    assert differing == [(".agent.seLinuxOptions", {"level", "role", "type", "user"})]


def test_chart_describes_itself_truly() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    notes = {name.partition("/")[2]: yaml.safe_load(text) for name, text in chart["annotations"].items()}
    kinds = {(one["kind"], one["version"], one["name"]) for one in notes["crds"]}
    assert kinds == {
        (resource.model.__name__, names.VERSION, f"{resource.plural}.{names.GROUP}") for resource in crd.RESOURCES
    }
    models = {resource.model.__name__: resource.model for resource in crd.RESOURCES}
    for example in notes["crdsExamples"]:
        models[example["kind"]].model_validate(example)
    assert {example["kind"] for example in notes["crdsExamples"]} == set(models) - {"VMHost"}  # agents write these


def test_generated_files_are_up_to_date() -> None:
    """The chart's CRDs, its README, and manifests/."""
    result = subprocess.run(
        [sys.executable, "helm/render.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.returncode) == ("", 0), f"{result.stderr}\nrun: .venv/bin/python helm/render.py"


def test_readme_explains_every_value() -> None:
    text = (CHART / "README.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    told = {row[1].strip().strip("`") for row in rows}

    def leaves(path: str, value: Any) -> set[str]:
        if path in told or not isinstance(value, dict) or not value:
            return {path}
        return {leaf for name, item in value.items() for leaf in leaves(f"{path}.{name}".lstrip("."), item)}

    assert leaves("", VALUES) == told
    assert all(len(row[2].strip()) > 10 for row in rows)
