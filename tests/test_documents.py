"""Documents say what is so: links lead somewhere, paths exist, commands can be typed, figures are those of the files."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import documents
from modeling_deepspeech2.cli import main as cli
from modeling_deepspeech2.training.arguments import parse_arguments


REPOSITORY = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "tokenizer").glob("*.md")]
    + [*(REPOSITORY / "checkpoints").glob("*/README.md"), *(REPOSITORY / "demo").rglob("*.md")]
)
# Top-level names of the repository: what begins with one of them in a document must be there.
SHELVES = (
    "modeling_deepspeech2 tests docs demo recipes checkpoints tokenizer benchmarks examples scripts web app.py run_ctc.py"
)
WRITTEN_BY_COMMANDS = {"tokenizer/mine", "tokenizer/other", "tokenizer/russian", "docs/images/page.png"}

ids = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and content of the code blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[str]:
    """What a reader is told to type: in shell blocks, and within sentences."""
    lines = []
    for language, content in blocks(document):
        if language in ("bash", "console", "sh", ""):
            lines += content.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines += [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose)]
    return [line.removeprefix("$ ").strip() for line in lines]


def words(command: str) -> list[str]:
    """Those of the last command of a pipe, without redirections, comments and variables."""
    last = re.split(r"\s\|\s", re.sub(r"^(?:\w+=\S+ )+", "", command))[-1]
    found = shlex.split(last, comments=True)
    return found[: found.index(">")] if ">" in found else found


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]*)", text):
        if target and not re.match(r"https?:|mailto:", target):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_anchors_are_headings(document):
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", document.read_text(encoding="utf-8")):
        other = document.parent / target if target else document
        headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_paths_are_there(document):
    text = document.read_text(encoding="utf-8")
    shelves = "|".join(map(re.escape, SHELVES.split()))
    for path in re.findall(rf"(?<![\w./])((?:{shelves})(?:/[\w.*-]+)*)(?![\w(])", text):
        path = path.rstrip(".")
        if "*" not in path and path not in WRITTEN_BY_COMMANDS:
            assert (REPOSITORY / path).exists() or (document.parent / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_commands_can_be_typed(document, capsys):
    """By the parsers of the commands themselves; within a sentence, what is required may be left out."""
    prose = " ".join(document.read_text(encoding="utf-8").split())
    for command in commands(document):
        if command.startswith("deepspeech2 "):
            name, *arguments = words(command)[1:]
            if name in ("--help", "--version", "COMMAND") or (name in cli.COMMANDS and not arguments):
                continue
            if name == "train":
                parse_arguments(arguments, "")
                continue
            assert name in cli.COMMANDS, command
            if arguments != ["--help"] and not command.endswith("…"):
                try:
                    cli.make_parser(name, cli.load(name)).parse_args([name, *arguments])
                except SystemExit:
                    said = capsys.readouterr().err
                    is_abridged = f"`{command}`" in prose and "the following arguments are required" in said
                    assert is_abridged, f"{command}\n{said}"
        elif re.match(r"(?:\w+=\S+ )*(?:accelerate launch|torchrun) .*run_ctc\.py\b.", command):
            arguments = words(command)
            recipe = arguments[arguments.index("run_ctc.py") + 1 :]
            given = [re.sub(r"^\$PWD/", "", argument) for argument in recipe]
            try:
                parse_arguments(given, "")
            except SystemExit:
                pytest.fail(f"{command}\n{capsys.readouterr().err}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_modules_and_make_targets_exist(document):
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for command in commands(document):
        if found := re.match(r"make ([\w-]+)", command):
            assert found[1] in targets, command
        if found := re.match(r"python -m (benchmarks|modeling_deepspeech2)([\w.]*)", command):
            module = REPOSITORY / (found[1] + found[2]).replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), command


def test_python_in_documents_compiles():
    for document in DOCUMENTS:
        for language, content in blocks(document):
            if language == "python":
                compile(content, str(document), "exec")


def test_messages_explained_in_troubleshooting_are_those_of_the_code():
    """Users look for what they saw; the headings quote it, with "…" where it varies."""
    sources = [*(REPOSITORY / "modeling_deepspeech2").rglob("*.py"), REPOSITORY / "run_ctc.py"]
    code = "".join(source.read_text(encoding="utf-8") for source in sources)
    document = (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\*\*`([^`]{12,})`", document, re.MULTILINE)
    own = [message for message in messages if "trust_remote_code" not in message]  # which transformers says
    assert len(own) >= 8
    for message in own:
        for part in filter(None, (part.strip(" :") for part in message.split("…"))):
            assert part in code, message


def test_figures_are_those_of_the_files():
    """README, RESULTS and cards show what commands wrote into results.json: `python -m benchmarks.documents` fills them."""
    for path, content in documents.documents().items():
        assert path.read_text(encoding="utf-8") == content, path


def test_a_document_without_its_place_is_refused():
    with pytest.raises(ValueError, match="begin models"):
        documents.filled("no place", "models", [])
