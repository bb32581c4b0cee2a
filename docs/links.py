"""Links from the documentation pages to files outside docs/ when the site is built, where the repository is not beside it.

With `repo_url` set in mkdocs.yml they lead there; without, the name of the file stays, by which it is found in a clone.
"""

import re
from pathlib import Path
from typing import Any


DOCS = Path(__file__).resolve().parent


def on_page_markdown(markdown: str, page: Any, config: Any, **_: object) -> str:
    """Called by mkdocs with the text of each page."""
    folder = (DOCS / page.file.src_uri).parent

    def absolute(match: re.Match) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = (folder / path).resolve()
        if target.is_relative_to(DOCS) or not target.exists():
            return match[0]  # mkdocs checks it
        name = target.relative_to(DOCS.parent)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{name}{anchor})"
        return text if str(name) in text else f"{text} (`{name}`)"

    return re.sub(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", absolute, markdown)
