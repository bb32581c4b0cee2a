"""The command that reproduces the paper's findings trains, goes on, draws from its log, and claims only what holds."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.findings.__main__ import LOG, main
from benchmarks.findings.report import power_law, verdict, write_report
from benchmarks.findings.runs import append, arguments_of, key, make_noisy, missing, read_log
from benchmarks.findings.variants import BY_CHARACTER, FINDINGS, TEST, WITH_LM, Claim
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.training.arguments import parse_arguments


def run(settings: dict, seed: int, wer: float, parameters: int = 1_000) -> dict:
    tests = {test for finding in FINDINGS.values() for test in finding.measured}
    return {
        "settings": settings, "seed": seed, "parameters": parameters, "seconds": 60,
        "results": {test: {"wer": wer, "cer": wer / 2} for test in tests},
    }  # fmt: skip


def test_a_short_version_trains_goes_on_and_draws(tmp_path, capsys):
    """Three trainings of three steps, each measured with a language model, too; a second command has nothing left to do."""
    arguments = ["language_model", "--seeds", "1", "--log", str(tmp_path / "runs.jsonl")]
    arguments += [
        "--output",
        str(tmp_path),
        "--work",
        str(tmp_path / "work"),
        "--shorter",
        "max_steps=3",
        "num_train_epochs=1",
    ]
    main(arguments)
    runs = read_log(tmp_path / "runs.jsonl")
    assert len(runs) == 3
    assert {TEST, WITH_LM} <= runs[key({}, 0)]["results"].keys()
    text = (tmp_path / "findings.md").read_text()
    assert text in capsys.readouterr().out
    assert "findings/language_model.svg" in text and (tmp_path / "findings" / "language_model.svg").exists()
    written = (tmp_path / "runs.jsonl").read_bytes()
    main(arguments)
    assert (tmp_path / "runs.jsonl").read_bytes() == written
    with pytest.raises(SystemExit):
        main(["direction", "--shorter", "max_steps=3"])
    assert "name another --log" in capsys.readouterr().err


def test_the_noisy_clips_are_the_clean_ones_with_noise(tmp_path):
    """The same clips with the same words, each 0 to 30 dB above what was added; made once."""
    make_noisy(tmp_path / "noisy")
    clean, noisy = (
        SpeechData(*place, show_progress=False) for place in (("demo/speech", [TEST]), (str(tmp_path / "noisy"), ["test"]))
    )
    own = {utterance.name: utterance for utterance in clean.read(np.arange(len(clean.index))).values()}
    for utterance in noisy.read(np.arange(20)).values():
        assert utterance.text == own[utterance.name].text
        before, after = (read_waveform(audio, 16_000, "") for audio in (own[utterance.name].audio, utterance.audio))
        scale = before @ after / (before @ before)  # below 1 where the sum would have been clipped
        ratio = 10 * np.log10(np.square(scale * before).sum() / np.square(after - scale * before).sum())
        assert -1 <= ratio <= 31
    made = (tmp_path / "noisy" / "test-00000-of-00001.parquet").stat().st_mtime_ns
    make_noisy(tmp_path / "noisy")
    assert (tmp_path / "noisy" / "test-00000-of-00001.parquet").stat().st_mtime_ns == made


def test_every_run_is_a_valid_training():
    """Of all findings: no field is misspelled or out of its range; that would only show after hours."""
    for finding in FINDINGS.values():
        for settings in finding.variants.values():
            parse_arguments(arguments_of(settings)[1], "")
        assert all({claim.better, claim.worse} <= finding.variants.keys() for claim in finding.claims)
        assert not finding.scale or finding.scale.keys() == finding.variants.keys()


def test_runs_are_shared_and_seeds_come_one_after_the_other():
    waiting = missing(list(FINDINGS), 2, {})
    assert len({key(settings, seed) for settings, seed, _ in waiting}) == len(waiting)
    assert [seed for _, seed, _ in waiting] == sorted(seed for _, seed, _ in waiting)
    [base] = [measured for settings, seed, measured in waiting if settings == {} and seed == 0]
    assert base == {TEST, WITH_LM}
    done = run({}, 0, 0.5)
    del done["results"][WITH_LM]
    assert len(missing(list(FINDINGS), 2, {key({}, 0): done})) == len(waiting)  # it lacks one of its measurements


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path):
    whole = json.dumps(run({}, 0, 0.5))
    (tmp_path / "runs.jsonl").write_text(f"{whole}\n{whole[:40]}")
    assert list(read_log(tmp_path / "runs.jsonl")) == [key({}, 0)]
    append(tmp_path / "runs.jsonl", run({}, 1, 0.5))
    assert list(read_log(tmp_path / "runs.jsonl")) == [key({}, 0), key({}, 1)]


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        ([0.1, 0.11, 0.12], [0.2, 0.21, 0.22], "holds"),
        ([0.2, 0.21, 0.22], [0.1, 0.11, 0.12], "does not hold"),
        ([0.1, 0.2, 0.3], [0.15, 0.22, 0.31], "not decided"),
        ([0.1], [0.9], "not decided"),
    ],
)
def test_verdicts(better, worse, said):
    runs = {
        name: [run({"a": name}, seed, wer) for seed, wer in enumerate(values)]
        for name, values in {"better": better, "worse": worse}.items()
    }
    assert verdict(Claim("it", "better", "worse"), runs)[0] == said


def test_a_power_law_is_found_again():
    finding = FINDINGS["hours_english"]
    runs = {
        variant: [run(settings, seed, 0.8 * finding.scale[variant] ** -0.4) for seed in range(3)]
        for variant, settings in finding.variants.items()
    }
    assert power_law(finding, runs) == pytest.approx((80, 0.4, 1.0))


def test_the_report_says_what_the_log_says(tmp_path):
    """Every finding, with an error that tells the variant: means stand in their rows; what has one seed claims nothing."""
    runs = {}
    for number, settings in enumerate({json.dumps(s): s for f in FINDINGS.values() for s in f.variants.values()}.values()):
        for seed in range(2):
            own = run(settings, seed, (10 + number + 0.5 * seed) / 100, parameters=1_000 * (number + 1))
            runs[key(settings, seed)] = own
    text = write_report(runs, tmp_path)
    for finding in FINDINGS.values():
        assert f"## {finding.title}" in text and finding.paper in text
        for variant, settings in finding.variants.items():
            errors = [100 * runs[key(settings, seed)]["results"][finding.measured[0]]["wer"] for seed in range(2)]
            error = sum(errors) / 2 / (2 if finding.measured[0] in BY_CHARACTER else 1)
            assert re.search(rf"\| {re.escape(variant)} \| [\d,]+ \| 2 \| {error:.1f} ±", text), variant
    assert not re.search(r"\bnan\b", text)
    summary = text[text.index("| | holds |") : text.index("\n## ")]
    assert all(claim.sentence in summary for finding in FINDINGS.values() for claim in finding.claims)
    del runs[key({}, 1)]
    text = write_report(runs, tmp_path)
    assert re.search(r"\| GRU \| [\d,]+ \| 1 \| [\d.]+ % \|", text) and "one seed)" in text
    assert len(list((tmp_path / "findings").glob("*.svg"))) == len(FINDINGS)


@pytest.mark.skipif(not LOG.exists(), reason="no run has been logged yet")
def test_the_page_is_that_of_the_log(tmp_path):
    """docs/findings.md holds what `--draw` makes of the runs that are logged, no figure typed by hand."""
    write_report(read_log(LOG), tmp_path)
    assert (tmp_path / "findings.md").read_text() == Path("docs/findings.md").read_text()
    assert not math.isnan(sum(run["results"].popitem()[1]["wer"] for run in read_log(LOG).values()))
