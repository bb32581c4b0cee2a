"""What an installation costs: the size of the wheel and of the base install, the time of the import and of `--help`.

    python -m benchmarks.installation [CLONE …]

Prints a column for each clone of the repository (this one alone by default), so that commits can be compared. Times are
processor seconds, user and system, the least of `--rounds` runs in turns: they do not depend on what else is running.
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


REPOSITORY = Path(__file__).resolve().parent.parent
NOT_IN_THE_WHEEL = [".*", "__pycache__", "*.egg-info", "build", "checkpoints", "demo", "docs", "runs", "tests", "web"]
IMPORT = "import modeling_deepspeech2"


def help_command(clone: Path) -> str:
    """The code that the command `deepspeech2` runs, as pyproject.toml names it."""
    module, function = settings(clone)["scripts"]["deepspeech2"].split(":")
    return f"import sys; sys.argv = ['deepspeech2', '--help']; from {module} import {function}; {function}()"


def settings(clone: Path) -> dict:
    return tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def wheel_size(clone: Path) -> int:
    """Bytes of the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "clone"  # without what an earlier build has left behind, which would be in the wheel, too
        shutil.copytree(clone, copy, ignore=shutil.ignore_patterns(*NOT_IN_THE_WHEEL))
        build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, str(copy)]
        subprocess.run([sys.executable, "-m", "pip", *build], check=True)
        return next(Path(folder).glob("*.whl")).stat().st_size


def installed_size(requirements: list[str]) -> tuple[int, int]:
    """Bytes and number of the packages that are needed, as they are installed here."""
    waiting, sizes = [Requirement(line) for line in requirements], {}
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in sizes or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        package = importlib.metadata.distribution(wanted.name)
        paths = [Path(str(package.locate_file(file))) for file in package.files or []]
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
        waiting += [Requirement(line) for line in package.requires or []]
    return sum(sizes.values()), len(sizes)


def processor_seconds(clone: Path, code: str) -> float:
    environment = os.environ | {"PYTHONPATH": str(clone)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=clone, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{code!r} failed in {clone}.")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clones", nargs="*", type=Path, default=[REPOSITORY], metavar="CLONE")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command (%(default)s)")
    options = parser.parse_args()
    times: dict[tuple[Path, str], list[float]] = {}
    for _ in range(options.rounds):
        for clone in options.clones:
            for what, code in (("import", IMPORT), ("help", help_command(clone))):
                times.setdefault((clone, what), []).append(processor_seconds(clone.resolve(), code))
    print("| clone | wheel | base install | import | deepspeech2 --help |\n| --- | ---: | ---: | ---: | ---: |")
    for clone in options.clones:
        size, count = installed_size(settings(clone)["dependencies"])
        imported, helped = (min(times[clone, what]) for what in ("import", "help"))
        base = f"{size / 1e6:.0f} MB in {count} packages"
        print(f"| {clone} | {wheel_size(clone) / 1e3:.0f} kB | {base} | {imported:.2f} s | {helped:.2f} s |")


if __name__ == "__main__":
    main()
