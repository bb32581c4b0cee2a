"""Makes links from the documentation pages to files outside docs/ point to the repository when the site is built."""

import re
from pathlib import Path


REPOSITORY = "https://github.com/modeling-deepspeech2/modeling_deepspeech2/blob/main/"
DOCS = Path(__file__).resolve().parent


def on_page_markdown(markdown: str, page, **_: object) -> str:
    """Called by mkdocs with the text of each page."""
    folder = (DOCS / page.file.src_uri).parent

    def absolute(match: re.Match) -> str:
        target = (folder / match[1]).resolve()
        if target.is_relative_to(DOCS) or not target.exists():
            return match[0]  # mkdocs checks it
        return f"]({REPOSITORY}{target.relative_to(DOCS.parent)}{match[2] or ''})"

    return re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", absolute, markdown)
