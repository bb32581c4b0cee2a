"""Writes a folder that is a Hugging Face Space: the page (Gradio), or the recogniser that runs in the browser (static).

    python scripts/make_space.py page runs/space
    python scripts/make_space.py web runs/space_web       # after `npm run build` in web/
    hf upload me/deepspeech2 runs/space . --repo-type space

Front matter and requirements of the page are made from pyproject.toml, so that they cannot disagree with it; the card of the
static Space is web/README.md.
"""

import argparse
import shutil
import tomllib
from importlib import metadata
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData


REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = ["app.py", "demo", "modeling_deepspeech2", "checkpoints", "LICENSE"]
BUILT = REPOSITORY / "web" / "dist"


def requirements(project: dict) -> list[str]:
    """The package's own and those of its page; the package itself lies in the folder."""
    return project["dependencies"] + project["optional-dependencies"]["app"]


def write_card(folder: Path, project: dict, **settings: str) -> None:
    data = SpaceCardData(
        title="Deep Speech 2",
        license=project["license"].lower(),
        short_description="Watch a small speech recogniser at work",
        tags=["automatic-speech-recognition"],
        **settings,
    )
    text = f"# Deep Speech 2\n\n{project['description']}\n\nIt implements [this paper]({project['urls']['Paper']}).\n"
    SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")


def make_page(folder: Path, project: dict) -> None:
    for name in PAGE:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    lines = requirements(project)
    (folder / "requirements.txt").write_text("\n".join(line for line in lines if not line.startswith("gradio")) + "\n")
    (folder / "packages.txt").write_text("ffmpeg\n")
    write_card(
        folder, project, sdk="gradio", sdk_version=metadata.version("gradio"), app_file="app.py", python_version="3.11"
    )


def make_web(folder: Path, _: dict) -> None:
    if not (BUILT / "index.html").is_file():
        raise SystemExit(f"There is no built page in {BUILT}: run `npm run build` in web/ first.")
    shutil.copytree(BUILT, folder, dirs_exist_ok=True)  # its README.md is the card of the Space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("page", "web"))
    parser.add_argument("folder", type=Path, help="a new folder")
    settings = parser.parse_args()
    settings.folder.mkdir(parents=True)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (make_page if settings.kind == "page" else make_web)(settings.folder, project)


if __name__ == "__main__":
    main()
