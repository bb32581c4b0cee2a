"""What would spoil a result, found in the measurements of a data set."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas

from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .measurements import SOURCE_RATES, roll_off, source_rate
from .shards import is_training


CLIPPED_SHARE = 0.001  # of the samples of an utterance at full scale
LONG_PAUSE = 1.0  # seconds; report longer silences at either end

# From which share of a split on something spoils a result; below, it is only noted.
UNUSABLE_SHARE = 0.01
KNOWN_SENTENCES_SHARE = 0.1
FEW_SPEAKERS = 20
DURATION_TOLERANCE = 0.1  # seconds
# Character rates so many deviations (by the median absolute one, of the logarithm) from the median are probably wrong pairs.
RATE_DEVIATIONS = 5.0
LEAST_DEVIATION = 0.1

CHECKS = {
    "unreadable": "audio that cannot be read",
    "empty_transcripts": "transcripts without a character of the alphabet",
    "does_not_fit": "transcripts that CTC cannot fit into the output frames of their audio",
    "unknown_characters": "characters outside the vocabulary",
    "unseen_characters": "characters that occur in no training split",
    "repeated_recordings": "the same recording twice, within a split or across",
    "contradictions": "the same recording with different transcripts",
    "known_sentences": "sentences that are in training too",
    "shared_speakers": "speakers that are in training too",
    "few_speakers": "few speakers in training",
    "bandwidth": "material recorded at a lower sampling rate than it is stored at",
    "sampling_rates": "the sampling rates of the files",
    "clipping": "samples at full scale",
    "silence": "nothing but silence, and long pauses at the ends",
    "durations": "the column of durations against the audio",
    "character_rates": "characters a second far from the usual",
}


@dataclass
class Finding:
    """Something to know about a split.

    Args:
        check: one of `CHECKS`.
        spoils: whether it would spoil a result; otherwise it is good to know.
        where: the split.
        message: one sentence.
        examples: names of utterances, or characters.
    """

    check: str
    spoils: bool
    where: str
    message: str
    examples: list[str] = field(default_factory=list)


@dataclass
class Verification:
    """Measurements and findings of some splits.

    Args:
        utterances: one row for each: split, name, speaker, seconds, …, error.
        characters: of each split, how often each occurs.
        spectra: of each split, the mean spectrum of its first differences, every utterance weighing the same.
        findings: what spoils a result first.
    """

    utterances: pandas.DataFrame
    characters: dict[str, Counter]
    spectra: dict[str, np.ndarray]
    findings: list[Finding]
    tokenizer: DeepSpeech2CTCTokenizer
    time_stride: int


def _by_split(found: Verification) -> Iterator[tuple[str, pandas.DataFrame]]:
    for split in found.characters:
        rows = found.utterances[found.utterances["split"] == split]
        if len(rows):
            yield split, rows


def _count(
    rows: pandas.DataFrame, bad: pandas.Series, what: str, check: str, split: str, spoils: bool = True
) -> list[Finding]:
    """A finding, if any row is bad; it spoils from `UNUSABLE_SHARE` on."""
    number = int(bad.sum())
    if not number:
        return []
    share = number / len(rows)
    message = f"{number:,} of {len(rows):,} utterances ({share:.1%}) {what}."
    return [Finding(check, spoils and share >= UNUSABLE_SHARE, split, message, rows["name"][bad].head(5).tolist())]


def _readable(rows: pandas.DataFrame) -> pandas.DataFrame:
    return rows[rows["error"] == ""]


def find_unusable(found: Verification) -> list[Finding]:
    findings = []
    for split, rows in _by_split(found):
        broken = rows["error"] != ""
        findings += _count(rows, broken, "cannot be read", "unreadable", split)
        if broken.any():
            findings[-1].examples = [f"{row.name}: {row.error}" for row in rows[broken].head(5).itertuples(index=False)]
        empty = rows["labels"] == 0
        findings += _count(rows, empty, "have no character of the alphabet", "empty_transcripts", split)
        tight = ~broken & (rows["needed"] > rows["available"])
        what = f"have more characters than CTC fits into their output frames at a stride of {found.time_stride} in time"
        findings += _count(rows, tight, what, "does_not_fit", split)
    return findings


def find_characters(found: Verification) -> list[Finding]:
    findings = []
    seen = Counter()
    for split, counts in found.characters.items():
        if is_training(split):
            seen.update(counts)
    for split, counts in found.characters.items():
        known = found.tokenizer.get_vocab()
        # Characters missing from training are reported below, if there is a training split.
        told = is_training(split) or not seen
        unknown = Counter({c: n for c, n in counts.items() if c not in known and (told or c in seen)})
        if unknown:
            share = unknown.total() / counts.total()
            message = (
                f"{len(unknown)} characters are outside the vocabulary: {unknown.total():,} occurrences, {share:.2%} of "
                f"the text."
            )
            examples = [f"{c!r} × {n}" for c, n in unknown.most_common(20)]
            findings.append(Finding("unknown_characters", share >= UNUSABLE_SHARE, split, message, examples))
        unseen = Counter({c: n for c, n in counts.items() if c not in seen})
        if seen and unseen and not is_training(split):
            share = unseen.total() / counts.total()
            message = (
                f"{len(unseen)} characters occur in no training split, {unseen.total():,} occurrences: at best "
                f"{share:.2%} of the characters will be wrong."
            )
            examples = [f"{c!r} × {n}" for c, n in unseen.most_common(20)]
            findings.append(Finding("unseen_characters", False, split, message, examples))
    return findings


def find_repetitions(found: Verification) -> list[Finding]:
    """The same samples, not only the same bytes; a recording that was encoded anew with loss goes unnoticed."""
    findings = []
    readable = _readable(found.utterances)
    training = readable["split"].map(is_training)
    held_out: dict[str, pandas.Series] = {}
    for split, rows in _by_split(found):
        rows = _readable(rows)
        repeated = rows["recording"].duplicated()
        findings += _count(rows, repeated, "are the same recording as another one", "repeated_recordings", split)
        transcripts = rows.groupby("recording")["sentence"].transform("nunique")
        what = "share their recording with another one of a different transcript"
        findings += _count(rows, transcripts > 1, what, "contradictions", split)
        if is_training(split):
            continue
        for other, recordings in held_out.items():
            shared = rows["recording"].isin(recordings)
            what = f"are in {other}, too"
            findings += _count(rows, shared, what, "repeated_recordings", split)
        held_out[split] = rows["recording"]
        if not training.any():
            continue
        taught = readable[training]
        leaked = rows["recording"].isin(taught["recording"])
        if leaked.any():
            message = f"{int(leaked.sum()):,} of {len(rows):,} recordings are in training, too."
            findings.append(Finding("repeated_recordings", True, split, message, rows["name"][leaked].head(5).tolist()))
        known = rows["sentence"].isin(taught["sentence"])
        if known.any():
            message = f"{int(known.sum()):,} of {len(rows):,} utterances ({known.mean():.1%}) say a sentence of training."
            spoils = bool(known.mean() >= KNOWN_SENTENCES_SHARE)
            findings.append(Finding("known_sentences", spoils, split, message, rows["name"][known].head(5).tolist()))
    return findings


def find_speakers(found: Verification) -> list[Finding]:
    """Speakers are compared within a configuration, for each has its own names for them."""
    findings = []
    taught: dict[str, set[str]] = {}
    held_out: dict[str, set[str]] = {}
    for split, rows in _by_split(found):
        if is_training(split):
            taught.setdefault(split.rpartition("/")[0], set()).update(rows["speaker"])
    for split, rows in _by_split(found):
        configuration = split.rpartition("/")[0]
        named = rows[rows["speaker"] != ""]
        counts = named["speaker"].value_counts()
        if not is_training(split):
            both = [speaker for speaker in counts.index if speaker in taught.get(configuration, ())]
            for other, theirs in held_out.items():
                common = sorted(set(counts.index).intersection(theirs).difference(both))
                if common and other.rpartition("/")[0] == configuration:
                    message = f"{len(common)} of {len(counts)} speakers are in {other}, too, and in no training split."
                    findings.append(Finding("shared_speakers", False, split, message, common[:10]))
            held_out[split] = set(counts.index)
            if both:
                share = float(named["speaker"].isin(both).sum() / len(rows))
                message = (
                    f"{len(both)} of {len(counts)} speakers, with {share:.0%} of the utterances, are in training, too: the "
                    f"error rate will be one for known voices."
                )
                findings.append(Finding("shared_speakers", True, split, message, both[:10]))
        elif 0 < len(counts) < FEW_SPEAKERS:
            message = (
                f"Training has {len(counts)} speaker{'s' * (len(counts) > 1)}, and {counts.iloc[0] / len(rows):.0%} of the "
                f"utterances are by one: expect more errors on other voices."
            )
            examples = [f"{speaker}: {number:,} utterances" for speaker, number in counts.head(10).items()]
            findings.append(Finding("few_speakers", False, split, message, examples))
    return findings


def find_bandwidth(found: Verification) -> list[Finding]:
    findings = []
    trained: dict[str, set[int]] = {}
    rates = {}
    for split in found.spectra:
        if found.spectra[split].any():
            rates[split] = source_rate(roll_off(found.spectra[split], 16_000))
            if is_training(split):
                trained.setdefault(split.rpartition("/")[0], set()).add(rates[split])
    for split, rows in _by_split(found):
        if split not in rates:
            continue
        rate, frequency = rates[split], roll_off(found.spectra[split], 16_000)
        if rate in SOURCE_RATES:
            message = (
                f"Nothing above {frequency / 1000:.1f} kHz (99.9 % of the pre-emphasised energy lies below): "
                f"{SOURCE_RATES[rate]} material, whatever rate it is stored at."
            )
            findings.append(Finding("bandwidth", False, split, message))
        else:
            measured = rows[rows["roll_off"] > 0]
            narrow = measured["roll_off"].map(lambda hertz: source_rate(hertz) in SOURCE_RATES)
            what = "have nothing above 5.5 kHz, unlike the rest"
            findings += _count(measured, narrow, what, "bandwidth", split, spoils=False)
        others = trained.get(split.rpartition("/")[0], {rate})
        if not is_training(split) and rate not in others:
            message = (
                f"Its bandwidth is that of {rate:,} Hz material, but training has only "
                f"{', '.join(f'{other:,}' for other in sorted(others))} Hz."
            )
            findings.append(Finding("bandwidth", True, split, message))
    return findings


def find_audio(found: Verification) -> list[Finding]:
    findings = []
    for split, rows in _by_split(found):
        rows = _readable(rows)
        counts = rows["sampling_rate"].value_counts()
        if len(counts) > 1 or (len(counts) and counts.index.min() < 16_000):
            listed = ", ".join(f"{rate:,} Hz × {number:,}" for rate, number in counts.items())
            findings.append(Finding("sampling_rates", False, split, f"Sampling rates: {listed}."))
        several = rows["channels"] > 1
        findings += _count(rows, several, "have several channels, which are averaged", "sampling_rates", split, spoils=False)
        clipped = rows["clipped"] >= CLIPPED_SHARE
        what = f"have more than {CLIPPED_SHARE:.1%} of their samples at full scale"
        findings += _count(rows, clipped, what, "clipping", split, spoils=False)
        findings += _count(rows, rows["silence"] == 1, "are silent", "silence", split)
        pause = rows[["leading", "trailing"]].max(axis=1) > LONG_PAUSE
        what = f"begin or end with more than {LONG_PAUSE:g} s of silence"
        findings += _count(rows, pause, what, "silence", split, spoils=False)
        wrong = (rows["declared"] - rows["seconds"]).abs() > DURATION_TOLERANCE
        what = f"differ by more than {DURATION_TOLERANCE} s from their column of durations, which orders the training"
        findings += _count(rows, wrong, what, "durations", split)
    return findings


def find_character_rates(found: Verification) -> list[Finding]:
    findings = []
    for split, rows in _by_split(found):
        rows = rows[(rows["error"] == "") & (rows["characters"] > 0) & (rows["seconds"] > 0)]
        if rows.empty:
            continue
        rates = np.log(rows["characters"] / rows["seconds"])
        # Of a normal distribution, this is the standard deviation; at least that of speaking faster and slower.
        spread = max(1.4826 * (rates - rates.median()).abs().median(), LEAST_DEVIATION)
        usual = math.exp(rates.median())
        odd = (rates - rates.median()).abs() > RATE_DEVIATIONS * spread
        what = f"have character rates far from the usual {usual:.1f} a second: listen to them"
        findings += _count(rows, odd, what, "character_rates", split, spoils=False)
    return findings


CHECK_FUNCTIONS = (
    find_unusable,
    find_characters,
    find_repetitions,
    find_speakers,
    find_bandwidth,
    find_audio,
    find_character_rates,
)
