"""What would spoil a result is found before training: each fault is put into a small data set, and must be named."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.signal
import soundfile
import soxr

from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.corpus.checks import CHECKS
from modeling_deepspeech2.corpus.measurements import measure_audio, source_rate
from modeling_deepspeech2.corpus.report import text_report
from modeling_deepspeech2.corpus.verify import verify
from modeling_deepspeech2.data.sources import Utterance


SHARED = Path(__file__).parents[3] / "shared" / "data"
WORDS = ["amber", "birch", "cedar", "delta", "ember", "frost", "grove", "haven", "ivory", "jade"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(waveform: np.ndarray, rate: int = 16_000) -> dict:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="FLAC")
    return {"bytes": file.getvalue(), "path": None}


def speech(seed: int, seconds: float = 2.0, rate: int = 16_000) -> np.ndarray:
    """Coloured noise in bursts: loud, soft, and in all of the band, as speech is."""
    generator = np.random.default_rng(seed)
    noise = scipy.signal.lfilter([1], [1, -0.6], generator.normal(size=int(seconds * rate)))
    return (0.03 * noise * (1 + np.sin(np.arange(len(noise)) / rate * 25))).astype(np.float32)


def clean_rows() -> dict[str, list[dict]]:
    """Splits without a fault: 30 training clips of 25 speakers, six others of other speakers, no sentence twice."""
    rows = {"train": [], "test": []}
    for number in range(36):
        split = "train" if number < 30 else "test"
        text = " ".join(WORDS[(number * 7 + step * (1 + number // 10)) % 10] for step in range(4))
        speaker = f"speaker {number % 25 if number < 30 else number}"
        row = {"id": f"clip {number}", "audio": encoded(speech(number)), "text": text}
        rows[split].append(row | {"speaker_id": speaker, "duration": 2.0})
    return rows


def written(folder: Path, rows: dict[str, list[dict]]) -> str:
    folder.mkdir(exist_ok=True)
    for split, some in rows.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


def found_in(folder: Path, rows: dict[str, list[dict]]):
    return verify(written(folder, rows), list(rows), show_progress=False)


def checks(found) -> set[str]:
    return {finding.check for finding in found.findings}


def test_nothing_is_found_where_nothing_is_wrong(tmp_path):
    """Every other test of this file would be empty if a clean data set had findings."""
    found = found_in(tmp_path / "speech", clean_rows())
    assert found.findings == []
    assert len(found.utterances) == 36 and found.utterances["seconds"].sum() == pytest.approx(72)


def change(split: str, number: int, **columns):
    def apply(rows):
        rows[split][number] |= columns

    return apply


def copy_recording(rows):
    rows["test"][0]["audio"] = rows["train"][0]["audio"]


def contradict(rows):
    rows["train"][1]["audio"] = rows["train"][0]["audio"]


def telephone_test(rows):
    for row in rows["test"]:
        row["audio"] = encoded(soxr.resample(speech(99, rate=8_000), 8_000, 16_000))


FAULTS = {
    "unreadable": change("train", 0, audio={"bytes": b"no audio", "path": None}),
    "empty_transcripts": change("train", 0, text=" – "),
    "does_not_fit": change("train", 0, text="amber birch " * 12),
    "unseen_characters": change("test", 0, text="a zebra"),
    "repeated_recordings": copy_recording,
    "contradictions": contradict,
    "known_sentences": lambda rows: rows["test"][0].update(text=rows["train"][0]["text"].upper() + "!"),
    "shared_speakers": change("test", 0, speaker_id="speaker 1"),
    "few_speakers": lambda rows: [row.update(speaker_id="one") for row in rows["train"]],
    "bandwidth": telephone_test,
    "sampling_rates": change("train", 0, audio=encoded(speech(99, rate=44_100), 44_100)),
    "clipping": change("train", 0, audio=encoded(np.clip(20 * speech(98), -1, 1))),
    "silence": change("train", 0, audio=encoded(np.zeros(32_000, dtype=np.float32))),
    "durations": change("train", 0, duration=3.0),
    "character_rates": change("train", 0, text="amber birch " * 7),
}
SPOILING = {
    "unreadable", "empty_transcripts", "does_not_fit", "repeated_recordings", "contradictions", "known_sentences",
    "shared_speakers", "bandwidth", "silence", "durations",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault, tmp_path):
    """One fault in 36 clips is named, and said to spoil a result if it does."""
    rows = clean_rows()
    FAULTS[fault](rows)
    found = found_in(tmp_path / "speech", rows)
    assert fault in checks(found)
    assert any(finding.spoils for finding in found.findings if finding.check == fault) == (fault in SPOILING)


def test_every_check_has_its_fault():
    assert set(FAULTS) | {"unknown_characters"} == set(CHECKS)


def test_characters_outside_a_given_vocabulary(tmp_path, processor):
    rows = clean_rows()
    rows["train"][0]["text"] = "ελιά " + rows["train"][0]["text"]
    path = written(tmp_path / "speech", rows)
    found = verify(path, ["train"], processor.tokenizer, show_progress=False)
    [finding] = [finding for finding in found.findings if finding.check == "unknown_characters"]
    assert "'λ' × 1" in finding.examples
    rows["test"][0]["text"] = "ελιά " + rows["test"][0]["text"]
    found = verify(written(tmp_path / "other", rows), ["test"], processor.tokenizer, show_progress=False)
    assert "unknown_characters" in checks(found)  # a test split by itself has no training to be unseen in


def test_splits_held_out_are_compared_with_each_other(tmp_path):
    """What chooses a model must not measure it."""
    rows = clean_rows()
    rows["validation"] = [row | {"id": f"v{number}", "speaker_id": f"v{number}"} for number, row in enumerate(rows["test"])]
    rows["validation"][1]["speaker_id"] = rows["test"][0]["speaker_id"]
    found = verify(written(tmp_path / "speech", rows), ["train", "test", "validation"], show_progress=False)
    said = {(finding.check, finding.spoils): finding.message for finding in found.findings}
    assert "are in test, too" in said["repeated_recordings", True]
    assert "1 of 6 speakers are in test, too" in said["shared_speakers", False]


def test_speakers_may_be_numbers(tmp_path):
    rows = clean_rows()
    for number, row in enumerate(rows["train"]):
        row["speaker_id"] = number % 2
    for row in rows["test"]:
        row["speaker_id"] = 0
    found = found_in(tmp_path / "speech", rows)
    assert set(found.utterances["speaker"]) == {"0", "1"} and "shared_speakers" in checks(found)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000])
def test_the_sampling_rate_of_the_recording_is_told_from_the_samples(rate, clips):
    """Real codecs and resampling, as in the field: synthetic voices of the demo, sent through a lower rate and back."""
    for clip in clips[:3]:
        waveform = soxr.resample(soxr.resample(clip.waveform, 16_000, rate), rate, 16_000)
        measured = measure_audio(Utterance("clip", encoded(waveform), None))
        assert source_rate(measured.roll_off) == rate


def test_silence_at_the_ends_is_measured():
    quiet = np.zeros(16_000, dtype=np.float32)
    measured = measure_audio(Utterance("clip", encoded(np.concatenate([quiet, speech(0), quiet[:8_000]])), None))
    assert measured.leading == pytest.approx(1.0, abs=0.03) and measured.trailing == pytest.approx(0.5, abs=0.03)
    assert measured.seconds == 3.5


def test_several_processes_find_the_same(tmp_path):
    path = written(tmp_path / "speech", clean_rows())
    one, two = (verify(path, ["train", "test"], num_processes=number, show_progress=False) for number in (1, 2))
    assert one.utterances.equals(two.utterances)


def test_command_line_reports_and_exit_codes(tmp_path, capsys):
    """Clean: 0. Spoilt: 1, unless accepted. Not there: 2, with one sentence. The page needs no other file."""
    rows = clean_rows()
    rows["test"][0]["speaker_id"] = "speaker <1>"
    rows["train"][1]["speaker_id"] = "speaker <1>"
    path = written(tmp_path / "speech", rows)
    page = tmp_path / "reports" / "page.html"  # its folder is made
    assert main(["verify", "--dataset", path, "--html", str(page), "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "SPOILS   test: 1 of 6 speakers" in printed and "shared_speakers" in printed
    html = page.read_text()
    assert "speaker &lt;1&gt;" in html and html.count("<svg") == 7
    assert not re.search(r"<(?:link|script|img)|href=\"http|src=", html)
    assert main(["verify", "--dataset", path, "--processes", "1", "--accept", "shared_speakers"]) == 0
    capsys.readouterr()
    assert main(["verify", "--dataset", str(tmp_path / "none"), "--processes", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["verify", "--dataset", path, "--time_stride", "0"]) == 2
    assert "time_stride must be at least 1" in capsys.readouterr().err


EXPECTED_RATES = {"asterisk/test": "8 kHz telephone", "fsdd/test": "8 kHz telephone", "amazon_queen/validation": "11 kHz"}


@pytest.mark.skipif(not SHARED.exists(), reason="the speech of ../shared/data is not here")
def test_bandwidth_of_real_corpora(processor):
    found = verify(str(SHARED / "speech-en"), [*EXPECTED_RATES, "kathleen/test"], processor.tokenizer, show_progress=False)
    said = {finding.where: finding.message for finding in found.findings if finding.check == "bandwidth"}
    for split, kind in EXPECTED_RATES.items():
        assert kind in said[split]
    assert "kathleen/test" not in said
    [row] = [row for row in text_report(found).splitlines() if row.split()[:1] == ["kathleen/test"]]
    assert "≥ 16,000 Hz" in row
