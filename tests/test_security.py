"""What a file from a stranger could reach: nothing is unpickled, no YAML makes objects, no shell is asked, pages escape."""

import re
from pathlib import Path

import pytest
from jinja2 import Environment

from modeling_deepspeech2.audio_files import FFMPEG_FORMATS
from modeling_deepspeech2.corpus import report


REPOSITORY = Path(__file__).parent.parent
FOLDERS = ("modeling_deepspeech2", "benchmarks", "scripts", "demo", "examples")
SOURCES = [*REPOSITORY.glob("*.py"), *(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))]
FORBIDDEN = {
    "pickle": r"^\s*(?:import|from)\s+(?:c?pickle|dill|cloudpickle|joblib|shelve|marshal)\b|allow_pickle\s*=\s*True",
    "yaml without safe": r"yaml\.(?:load|unsafe_load|full_load)(?:_all)?\(|Loader\s*=\s*yaml\.(?:Unsafe|Full)?Loader\b",
    "torch.load of anything": r"torch\.load\((?!.*weights_only\s*=\s*True)",
    "a shell": r"shell\s*=\s*True|os\.system\(|os\.popen\(",
    "code from text": r"(?<![\w.])(?:eval|exec)\(",
    "pages without escaping": r"autoescape\s*=\s*False|Environment\(\)",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_code_has_none_of(what):
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert not found


def test_ffmpeg_is_called_in_one_place_with_its_limits():
    callers = [path for path in SOURCES if re.search(r"[\"']ffmpeg[\"'],\s*[\"']-", path.read_text(encoding="utf-8"))]
    package = [path for path in callers if "modeling_deepspeech2" in path.parts[-3:]]
    assert [path.name for path in package] == ["audio_files.py"]
    content = package[0].read_text(encoding="utf-8")
    assert '"-protocol_whitelist", "file"' in content and '"-format_whitelist", FFMPEG_FORMATS' in content
    assert not {"hls", "concat", "dash", "sdp", "lavfi", "image2"} & set(FFMPEG_FORMATS.split(","))


@pytest.mark.parametrize("attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"])
def test_reports_escape_names_and_transcripts(attack):
    page = Environment(autoescape=True).from_string(report._PAGE)
    finding = type("Finding", (), {"where": attack, "message": attack, "check": "x", "examples": [attack]})
    table = type("Table", (), {"columns": [attack], "itertuples": lambda self, index: [[attack]]})()
    html = page.render(
        title=attack, verdict=attack, symbols=1, stride=2, table=table, groups=[("a", "note", [finding])], plots=[]
    )
    assert "<script>" not in html and "<img" not in html and "49" not in html
