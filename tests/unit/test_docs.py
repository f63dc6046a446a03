"""No document says what is not so: commands, options, paths, links, reasons, examples and drawings are looked up."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from unit.documents import ROOT, anchors, commands, fences, prose, sections, spans, table, tree
from vmbackup import cli
from vmbackup.api import crd, names
from vmbackup.api.conditions import ConditionType, Reason
from vmbackup.api.vmbackup import Outcome, Phase, VMBackup
from vmbackup.core import restore_facts, steps
from vmbackup.core.decide import TABLES

PACKAGE = ROOT / "operator" / "vmbackup"
README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "dev/README.md"])
SUFFIXES = (".py", ".md", ".yaml", ".svg", ".toml", ".txt", ".sh", ".in")
MODELS = {resource.model.__name__: resource.model.model_validate for resource in crd.RESOURCES}
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def drawing() -> ModuleType:
    """Return docs/draw_states.py as a module."""
    with pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(str(ROOT / "docs"))
        spec = importlib.util.spec_from_file_location("draw_states", ROOT / "docs/draw_states.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def our_commands(document: Path) -> list[list[str]]:
    """Return the words after `vmbackup-operator`, wherever it is called."""
    called = ("vmbackup-operator", ".venv/bin/vmbackup-operator")
    return [words[1:] for words in commands(document.read_text()) if words[0] in called and words[1:]]


def complaint(words: list[str]) -> str:
    """Return what our command line says against a command, empty when it takes it. A command may be only named."""
    words = [*words, "--help"] if len(words) == 1 else words
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            cli._parser().parse_args(words)
    except SystemExit as end:
        return said.getvalue() if end.code else ""
    return ""


# -- commands and options -----------------------------------------------------------------------------------------


@each_document
def test_make_target_that_is_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for words in commands(document.read_text()) if words[0] == "make" for word in words[1:]}
    assert named <= targets


@each_document
def test_our_command_takes_what_is_written(document: Path) -> None:
    assert [(words, said) for words in our_commands(document) if (said := complaint(words))] == []


def test_the_commands_are_found_at_all() -> None:
    assert {"run", "controller", "agent", "watch"} <= {words[0] for words in our_commands(README)}
    assert complaint(["agent", "--no-such-option"])
    assert complaint(["no-such-command"])
    assert [words for words in commands(README.read_text()) if words[:2] == ["make", "demo"]]


@each_document
def test_option_that_is_named_exists(document: Path) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for command in ("run", "watch", "controller", "agent", "inspect", "crd", "catalog", "import"):
            with contextlib.suppress(SystemExit):
                cli._parser().parse_args([command, "--help"])
    others = {"--require-hashes"}  # pip's
    named = {span.split()[0] for span in spans(document.read_text()) if re.match(r"--[a-z]", span)}
    assert {option for option in named - others if option not in said.getvalue()} == set()


@each_document
def test_kubectl_is_asked_for_kinds_that_exist(document: Path) -> None:
    known = {names.CATEGORY} | {
        name
        for resource in crd.RESOURCES
        for kind in [resource.model.__name__.lower()]
        for name in (resource.plural, resource.short_name, kind, f"{resource.plural}.{names.GROUP}")
    }
    asked = {
        re.split(r"[/.]", word)[0]
        for words in commands(document.read_text())
        if words[0] == "kubectl"
        for word in words[1:]
        if re.match(r"vm(b|h|backup|host)", word)
    }
    names_of_objects = {"vmbackup-system", "vmbackup-agents"}
    assert asked - names_of_objects <= known


# -- paths and links ----------------------------------------------------------------------------------------------


@each_document
def test_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@each_document
def test_file_that_is_named_exists(document: Path) -> None:
    places = (ROOT, ROOT / "operator", PACKAGE, ROOT / "dev", ROOT / "dev/testbed", document.parent)
    paths = [span for span in spans(document.read_text()) if "/" in span and span.endswith(SUFFIXES)]
    plain = [path for path in paths if re.fullmatch(r"[\w.][\w./-]*", path)]
    assert [path for path in plain if not any((place / path).exists() for place in places)] == []


def test_every_room_is_in_the_map_and_the_map_shows_nothing_else() -> None:
    shown = re.findall(r"`operator/vmbackup/([^`]+)`", "\n".join(row[0] for row in table(sections_of("The rooms"))))
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.name != "__init__.py"
    }
    assert set(shown) == there
    assert len(shown) == len(set(shown))


def sections_of(heading: str) -> str:
    return sections(README.read_text())[heading]


def test_every_folder_of_the_tree_is_in_the_readme() -> None:
    text = sections_of("The rooms")
    folders = {path.parent.relative_to(ROOT).parts[0] for path in tree() if path.parent != ROOT}
    assert {folder for folder in folders - {"operator"} if f"`{folder}/" not in text} == set()


def test_every_folder_of_tests_is_in_contributing() -> None:
    text = sections((ROOT / "CONTRIBUTING.md").read_text())["Tests"]
    folders = {path.relative_to(ROOT).parts[1] for path in tree() if "tests" in path.relative_to(ROOT).parts[:-2]}
    assert {folder for folder in folders if f"`tests/{folder}/`" not in text} == set()
    assert {"unit", "fakes", "integration"} <= folders


# -- what is said of the product ----------------------------------------------------------------------------------


def test_reason_of_bad_input_exists() -> None:
    rows = table(sections_of("Bad input, and what it gets"))
    assert len(rows) > 20
    cells = [re.findall(r"`(\w+)`", row[1]) for row in rows]
    assert {reason for cell in cells for reason in cell} <= set(Reason)
    assert [row for row, cell in zip(rows, cells, strict=True) if not cell and row[2] != "API server"] == [
        row for row in rows if "goes on to its end" in row[3]
    ]


@each_document
def test_word_like_a_reason_is_one(document: Path) -> None:
    """A CamelCase word that ends as our reasons do must be one of them; acts and exceptions are none."""
    endings = {re.findall(r"[A-Z][a-z]+", reason)[-1] for reason in Reason if re.search(r"[a-z][A-Z]", reason)}
    others = {name for room in (steps, restore_facts) for name in vars(room) if name[0].isupper()}
    words = {span for span in spans(document.read_text()) if re.fullmatch(r"([A-Z][a-z]+){2,}", span)}
    assert {word for word in words - others if word.endswith(tuple(endings - {"Error"}))} <= set(Reason)


def test_outcomes_and_conditions_are_explained() -> None:
    text = sections_of("How to read the status")
    assert [outcome for outcome in Outcome if f"`{outcome}`" not in text] == []
    assert {row[0].strip("`") for row in table(text)} == set(ConditionType)


def test_columns_in_the_readme_are_those_of_kubectl() -> None:
    (head,) = re.findall(r"^NAME .*$", sections_of("How to read the status"), re.MULTILINE)
    columns = next(resource.columns for resource in crd.RESOURCES if resource.model is VMBackup)
    assert head.split() == ["NAME", *(column.name.upper() for column in columns)]


def test_recovery_is_told_for_every_phase() -> None:
    text = sections((ROOT / "docs/architecture.md").read_text())["What a crash leaves behind, and who mends it"]
    told = {row[0].split()[0] for row in table(text)}
    assert told == {str(phase) for phases in TABLES.values() for phase in phases}
    assert told <= set(Phase)


def examples() -> list[Any]:
    found = [
        pytest.param(body, id=f"{document.name}-{body['kind']}-{body['metadata']['name']}")
        for document in DOCUMENTS
        for fence in fences(document.read_text())
        if fence.language == "yaml"
        for body in yaml.safe_load_all(fence.text)
    ]
    assert found
    return found


@pytest.mark.parametrize("body", examples())
def test_example_fits_the_schema(body: dict[str, Any]) -> None:
    assert body["apiVersion"] == names.API_VERSION
    MODELS[body["kind"]](body)


# -- generated files and the tree ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["states.md", "states-restore.md", "states-push.svg", "states-snapshot.svg"])
def test_generated_document_is_up_to_date(name: str) -> None:
    files = drawing().files()
    assert (ROOT / "docs" / name).read_text() == files[name], "run `make docs`"
    assert {path.name for path in (ROOT / "docs").glob("states*")} == set(files)


def test_every_decision_is_in_the_list() -> None:
    decisions = ROOT / "docs/decisions"
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (decisions / "README.md").read_text())
    assert listed == sorted(path.name for path in decisions.glob("[0-9]*.md"))


def test_locked_requirements_name_no_address() -> None:
    assert [path.name for path in (ROOT / "requirements").iterdir() if "://" in path.read_text()] == []


def test_no_file_names_a_path_of_a_developer() -> None:
    home = "|".join(("work", "root", "home/[a-z]+"))
    pattern = re.compile(rf"(?<![\w>}}*.-])/({home})/")
    assert {
        str(path.relative_to(ROOT)): found[0]
        for path in tree()
        if (found := pattern.search(path.read_bytes().decode(errors="replace")))
    } == {}
