"""Installs this package with the lowest or the newest versions that pyproject.toml allows, and runs the fast tests there.

    python scripts/check_versions.py lowest
    python scripts/check_versions.py newest --python python3.13
    python scripts/check_versions.py lowest --keep torch==2.13.0     # where no wheel of the lowest torch can be had

An environment of its own is made below .cache/, and its versions are printed at the end.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path


REPOSITORY = Path(__file__).resolve().parent.parent
EXTRAS = ("train",)
TEST_TOOLS = ["hypothesis", "pillow", "pytest"]
FAST_TESTS = [
    "tests/test_configuration_deepspeech2.py",
    "tests/test_feature_extraction_deepspeech2.py",
    "tests/test_imports.py",
    "tests/test_loading_checks.py",
    "tests/test_modeling_deepspeech2.py",
    "tests/test_pipeline_deepspeech2.py",
    "tests/test_processing_deepspeech2.py",
    "tests/test_public_names.py",
    "tests/test_tokenization_deepspeech2.py",
    "tests/training/test_arguments.py",
    "tests/training/test_publishing.py",
]


def lowest_versions(project: dict) -> list[str]:
    """Each dependency of the package and of EXTRAS, pinned to its lower bound.

    >>> lowest_versions({"dependencies": ["torch>=2.6", "transformers>=5.20,<6"], "optional-dependencies": {}})
    ['torch==2.6', 'transformers==5.20']
    """
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [one for extra in EXTRAS for one in extras.get(extra, [])]
    own = rf"{project.get('name')}\[(\w+)\]"
    wanted += [one for line in wanted for match in [re.match(own, line)] if match for one in extras[match[1]]]
    bounds = {}
    for line in wanted:
        match = re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", line)
        if match:
            bounds[match[1]] = f"{match[1]}=={match[2]}"  # the later line of a name says more
    return list(bounds.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("versions", choices=("lowest", "newest"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter (%(default)s)")
    parser.add_argument("--keep", nargs="*", default=[], metavar="NAME==VERSION", help="take these instead of the bounds")
    parser.add_argument("--tests", nargs="*", default=FAST_TESTS, metavar="PATH", help="run these (the fast ones)")
    settings = parser.parse_args()
    folder = REPOSITORY / ".cache" / f"versions_{settings.versions}_{Path(settings.python).name}"
    subprocess.run([settings.python, "-m", "venv", "--clear", folder], check=True)
    kept = {re.split("==", one)[0] for one in settings.keep}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = [one for one in lowest_versions(project) if one.split("==")[0] not in kept]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(settings.keep + (lowest if settings.versions == "lowest" else [])) + "\n")
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", constraints]
    subprocess.run([*install, "-e", f"{REPOSITORY}[{','.join(EXTRAS)}]", *TEST_TOOLS], check=True)
    tests = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *settings.tests], cwd=REPOSITORY)
    names = [re.split(r"[<>=\[;]", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["train"]]
    show = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep='\\n')"
    subprocess.run([python, "-c", show, *sorted(set(names))], check=True)
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main()
