"""The datatrove example on the local Hub: one of four tasks is killed, and it alone runs again; nothing is lost."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from hub_server import HubServer, Repo, RepoFile


REPOSITORY = Path(__file__).parent.parent.parent
pytest.importorskip("datatrove", reason="datatrove is not installed: pip install datatrove")


@pytest.fixture(scope="module")
def hub():
    """Four files with six clips each, as a data set."""
    clips = next((REPOSITORY / "demo" / "speech" / "english").glob("test-*.parquet"))
    table = pyarrow.parquet.read_table(clips)
    files = {}
    for part in range(4):
        file = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table.slice(6 * part, 6), file)
        files[f"data/part-{part}.parquet"] = RepoFile(file.getvalue().to_pybytes(), lfs=True)
    with HubServer() as server:
        server.repos["dataset", "team/talks"] = Repo("team/talks", files)
        yield server


def test_a_killed_task_alone_runs_again(hub, tmp_path):
    """SIGKILL of the third task: the others end; a second run leaves their markers and texts alone; all clips are there."""
    command = [sys.executable, "examples/transcribe_archive.py", "--input", "hf://datasets/team/talks/data"]
    command += ["--output", f"{tmp_path}/texts", "--model", "checkpoints/deepspeech2-english-live", "--workers", "2"]
    environment = hub.environment(tmp_path / "hf_home") | {"PYTHONPATH": str(REPOSITORY)}
    settings = {"cwd": REPOSITORY, "env": environment, "stdout": subprocess.PIPE, "text": True}
    markers, texts = tmp_path / "texts" / "logs" / "completions", tmp_path / "texts" / "jsonl"

    first = subprocess.Popen(command, **settings, stderr=subprocess.PIPE)
    for line in first.stdout:
        if found := re.fullmatch(r"task 2: process (\d+)\n", line):
            os.kill(int(found[1]), signal.SIGKILL)
    assert first.wait() == 1 and "failed: [2]" in first.stderr.read()
    done = {marker.name: marker.stat().st_mtime_ns for marker in markers.iterdir()}
    written = {name: (texts / f"{name}.jsonl.gz").read_bytes() for name in done}
    assert sorted(done) == ["00000", "00001", "00003"]

    second = subprocess.run(command, **settings, stderr=subprocess.DEVNULL)
    assert second.returncode == 0 and "of which 3 are complete" in second.stdout and "task 0" not in second.stdout
    assert {name: (markers / name).stat().st_mtime_ns for name in done} == done and (markers / "00002").exists()
    rows = []
    for file in sorted(texts.iterdir()):
        assert file.read_bytes() == written.get(file.name.partition(".")[0], file.read_bytes())
        rows += map(json.loads, gzip.decompress(file.read_bytes()).decode().splitlines())
    assert len({row["metadata"]["name"] for row in rows}) == len(rows) == 24
    words = [word for row in rows for utterance in row["metadata"]["utterances"] for word in utterance["words"]]
    assert all(word["text"] and word["start"] < word["end"] for word in words) and len(words) > 50
