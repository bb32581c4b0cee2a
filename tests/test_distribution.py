"""What `pip install` brings: the whole package, what a training needs, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parent.parent
FOLDERS = ["modeling_deepspeech2", "tokenizer"]
FILES = ["deepspeech2_command.py", "run_ctc.py", "pyproject.toml", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> list[str]:
    """Of the files of the wheel, which is built offline in a copy of the clone."""
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools")
    folder = tmp_path_factory.mktemp("clone")
    for name in FOLDERS + FILES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]


def test_every_module_is_in_the_wheel(names):
    package = REPOSITORY / "modeling_deepspeech2"
    expected = {str(path.relative_to(REPOSITORY)) for path in package.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == expected | {"deepspeech2_command.py", "run_ctc.py"}


def test_types_and_tokenizers_are_in_the_wheel(names):
    """A training from an installed package finds its default alphabet; type checkers find the types."""
    tokenizers = {path.relative_to(REPOSITORY / "tokenizer") for path in (REPOSITORY / "tokenizer").rglob("*.json")}
    assert {f"modeling_deepspeech2/tokenizers/{path}" for path in tokenizers} <= set(names)
    assert "modeling_deepspeech2/py.typed" in names
    assert {Path(name).suffix for name in names} <= {".py", ".typed", ".json", ".html"}
