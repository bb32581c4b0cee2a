"""The house: what stands flat travels to the Hub, all of it and only it; wings import downwards only."""

import ast
import re
from pathlib import Path

import pytest

from modeling_deepspeech2 import remote_code


PACKAGE = Path(__file__).parent.parent / "modeling_deepspeech2"
# Each wing may import the flat floor and the wings before it.
WINGS = ["transcription", "data", "corpus", "training", "language_models", "export", "serving", "cli"]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(module: Path) -> list[str]:
    """The wing, or "" for the flat floor, of each module of the package that this one imports."""
    wings = []
    for dots, name in re.findall(r"^[ \t]*from (\.+)([\w.]*) import", module.read_text(encoding="utf-8"), re.MULTILINE):
        base = module.parent
        for _ in dots[1:]:
            base = base.parent
        target = base.joinpath(*name.split(".")) if name else base
        parts = target.relative_to(PACKAGE).parts
        wings.append(parts[0] if parts and (PACKAGE / parts[0]).is_dir() else "")
    return wings


def test_every_folder_is_a_wing_of_the_list():
    assert {path.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE} <= set(WINGS)


def test_what_stands_flat_is_what_travels():
    assert remote_code.modules() == [path for path in MODULES if path.parent == PACKAGE]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(module):
    wing = "" if module.parent == PACKAGE else module.relative_to(PACKAGE).parts[0]
    allowed = {"", *WINGS[: WINGS.index(wing) + 1]} if wing else {""}
    assert set(imported(module)) <= allowed
    assert "modeling_deepspeech2." not in re.findall(
        r"^[ \t]*(?:from|import) (\S+)", module.read_text("utf-8"), re.MULTILINE
    )


ROOT = PACKAGE.parent
LONGEST_MODULE, LONGEST_FUNCTION, LONGEST_SCRIPT = 450, 60, 350  # lines
LONGEST_README = 1_000  # words


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_fit_a_head(module):
    """Whatever grows beyond this holds more than one subject, or does more than one thing."""
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_what_is_read_first_is_short():
    """The training script reads from top to bottom, and the README in five minutes."""
    assert len((ROOT / "run_ctc.py").read_text(encoding="utf-8").splitlines()) <= LONGEST_SCRIPT
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= LONGEST_README
