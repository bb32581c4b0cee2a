"""The datatrove example: four tasks of which the run is killed; what is missing alone runs again, and nothing is lost."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest


REPOSITORY = Path(__file__).parent.parent.parent
pytest.importorskip("datatrove", reason="datatrove is not installed: pip install datatrove")


def test_a_killed_archive_goes_on(tmp_path):
    """SIGKILL after the first task of four: the second run leaves its marker and text alone, and all 24 clips are there."""
    clips = next((REPOSITORY / "demo" / "speech" / "english").glob("test-*.parquet"))
    table = pyarrow.parquet.read_table(clips)
    for part in range(4):
        (tmp_path / "speech").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table.slice(6 * part, 6), tmp_path / "speech" / f"part-{part}.parquet")
    command = [sys.executable, "examples/transcribe_archive.py", "--input", f"{tmp_path}/speech", "--workers", "1"]
    command += ["--output", f"{tmp_path}/texts", "--model", "checkpoints/deepspeech2-english-live"]
    settings = {"cwd": REPOSITORY, "env": os.environ | {"PYTHONPATH": str(REPOSITORY)}, "stderr": subprocess.DEVNULL}
    markers = tmp_path / "texts" / "logs" / "completions"

    first = subprocess.Popen(command, **settings, start_new_session=True)
    while first.poll() is None and not (markers.exists() and list(markers.iterdir())):
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGKILL)  # with its workers, which would outlive the test
    first.wait()
    done = {marker.name: marker.stat().st_mtime_ns for marker in markers.iterdir()}
    texts = {name: (tmp_path / "texts" / "jsonl" / f"{name}.jsonl.gz").read_bytes() for name in done}
    assert 1 <= len(done) < 4

    assert subprocess.run(command, **settings).returncode == 0
    assert len(list(markers.iterdir())) == 4
    assert {name: (markers / name).stat().st_mtime_ns for name in done} == done
    rows = []
    for file in sorted((tmp_path / "texts" / "jsonl").iterdir()):
        assert file.name.partition(".")[0] not in texts or file.read_bytes() == texts[file.name.partition(".")[0]]
        rows += map(json.loads, gzip.decompress(file.read_bytes()).decode().splitlines())
    assert len({row["metadata"]["name"] for row in rows}) == len(rows) == 24
    words = [word for row in rows for utterance in row["metadata"]["utterances"] for word in utterance["words"]]
    assert all(word["text"] and word["start"] < word["end"] for word in words) and len(words) > 50
