"""The programs that judge the chart: Helm, kstatus, Lua, promtool. Missing ones are a failure, never a skip."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed.kstatus import kstatus_program
from testbed.tools import tool

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "vmbackup-operator"
RELEASE = "vmbackup-operator"
NAMESPACE = "vmbackup-system"
Body = dict[str, Any]


class Refused(Exception):  # noqa: N818 - it is what the program did
    """A program ended with an error; the text is what it said."""


def call(*command: str, given: str | None = None, at: Path = ROOT) -> str:
    """Return what a program printed. Raises: Refused."""
    result = subprocess.run(command, cwd=at, input=given, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Refused(result.stderr + result.stdout)
    return result.stdout


def helm(*arguments: str) -> str:
    """Run Helm with no settings of the machine's. Raises: Refused."""
    with tempfile.TemporaryDirectory() as home:
        places = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
        command = ["env", *(f"{name}={value}" for name, value in places.items()), str(tool("helm")), *arguments]
        return call(*command)


def render(values: Mapping[str, Any] | None = None, *arguments: str) -> list[Body]:
    """Return what `helm template` makes of the chart with these values. Raises: Refused."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(values or {}), file)
        file.flush()
        flags = ("--namespace", NAMESPACE, "--values", file.name, *arguments)
        return documents(helm("template", RELEASE, str(CHART), *flags))


def documents(text: str) -> list[Body]:
    return [body for body in yaml.safe_load_all(text) if body]


def only(bodies: Iterable[Body], kind: str, name: str = "") -> Body:
    """Return the one object of a kind whose name ends so."""
    (found,) = (body for body in bodies if body["kind"] == kind and body["metadata"]["name"].endswith(name))
    return found


def kstatus(bodies: Sequence[Body]) -> list[str]:
    """Return the verdict of the real library on each object."""
    lines = call(str(kstatus_program()), given="\n---\n".join(json.dumps(body) for body in bodies)).splitlines()
    assert len(lines) == len(bodies)
    return [json.loads(line)["status"] for line in lines]


# Argo CD runs health checks in a Lua without standard libraries; what is handed in is all that there is.
_RUNNER = """
local environment = {ipairs = ipairs, pairs = pairs, type = type, obj = OBJECT}
local file = assert(io.open(arg[1]))
local check = assert(load(file:read("a"), arg[1], "t", environment))
local verdict = check()
io.write(verdict.status, "\\n", verdict.message or "")
"""


def health(script: Path, body: Body) -> tuple[str, str]:
    """Return status and message that a health check of Argo CD gives an object. Raises: Refused: it failed."""
    program = _RUNNER.replace("OBJECT", lua(body))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(program)
        file.flush()
        status, _, message = call("lua5.4", file.name, str(script)).partition("\n")
    return status, message


def lua(value: Any) -> str:
    """Return a value from JSON as Lua writes it."""
    match value:
        case dict():
            return "{" + ",".join(f"[{lua(key)}]={lua(item)}" for key, item in value.items()) + "}"
        case list():
            return "{" + ",".join(lua(item) for item in value) + "}"
        case str():
            return '"' + "".join(f"\\{byte:03d}" for byte in value.encode()) + '"'
        case None:
            return "nil"
        case bool():
            return str(value).lower()
    return str(value)
