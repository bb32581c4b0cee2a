"""Checks a data set before training: measures every utterance and lists whatever would spoil a result.

The audio is read once, as a stream, in several processes; about 300 bytes per utterance stay in memory. `report` presents
the measurements and findings.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pandas
from tqdm.auto import tqdm

from ..audio import AudioError, read_header, read_waveform
from ..data.processes import map_in_processes
from ..data.sources import DataError, Source, Utterance, as_text, open_source
from ..errors import UserError
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .shards import is_training


ROWS_AT_A_TIME = 32  # that a process measures in one go
ROWS_OF_A_PART = 4_096

# Of the samples of an utterance that reach 99 % of full scale, so many are clipping.
FULL_SCALE, CLIPPED_SHARE = 0.99, 0.001
# Frames so far below the loud ones (the 95th percentile) are silence; an utterance whose peak is so low holds nothing else.
SILENCE_DB, SILENT_PEAK = 40.0, 0.001
LONG_PAUSE = 1.0  # seconds of silence at either end that are worth a word

# Bandwidth: below which frequency 99.9 % of the energy lies, after a first difference, which lifts the weak high frequencies
# of speech. Material of a lower sampling rate keeps an empty band above half that rate, however it is stored.
ROLL_OFF = 0.999
SOURCE_RATES = {8_000: "8 kHz telephone", 11_025: "11 kHz"}

# From which share of a split on something spoils a result; below, it is only noted.
UNUSABLE_SHARE = 0.01
KNOWN_SENTENCES_SHARE = 0.1
FEW_SPEAKERS = 20
DURATION_TOLERANCE = 0.1  # seconds
# Character rates so many deviations (by the median absolute one, of the logarithm) from the median are probably wrong pairs.
RATE_DEVIATIONS, LEAST_DEVIATION = 5.0, 0.1

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
    """Args:
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
class AudioMeasurements:
    """What the samples of one utterance tell, at the model's sampling rate."""

    seconds: float = 0.0
    sampling_rate: int = 0  # of the file
    channels: int = 0
    peak: float = 0.0
    clipped: float = 0.0  # share of the samples at full scale
    silence: float = 0.0  # share of the frames
    leading: float = 0.0  # seconds of silence at the start
    trailing: float = 0.0  # and at the end
    roll_off: float = 0.0  # hertz
    recording: int = 0  # hash of the samples
    spectrum: np.ndarray | None = None  # of the first difference, its sum 1, shape (bins,)
    error: str = ""


def measure_audio(utterance: Utterance, sampling_rate: int = 16_000) -> AudioMeasurements:
    """Reads and measures one utterance; what cannot be read says why in `error`."""
    try:
        waveform = read_waveform(utterance.audio, sampling_rate, utterance.name)
        header = read_header(utterance.audio, utterance.name)
    except (AudioError, OSError) as error:
        return AudioMeasurements(error=str(error))
    samples = np.round(waveform * 32_767).astype("<i2")
    found = AudioMeasurements(
        seconds=len(waveform) / sampling_rate,
        sampling_rate=header.rate,
        channels=header.channels,
        peak=float(np.abs(waveform).max()),
        clipped=float((np.abs(waveform) >= FULL_SCALE).mean()),
        recording=_hash(samples.tobytes()),
    )
    extractor = DeepSpeech2FeatureExtractor(sampling_rate=sampling_rate)
    power = extractor.log_power(waveform).exp().numpy().mean(1)
    loud = power > np.percentile(power, 95) * 10 ** (-SILENCE_DB / 10)
    frame = extractor.hop_length / sampling_rate
    if found.peak < SILENT_PEAK or not loud.any():
        found.silence = 1.0
        return found
    found.silence = float(1 - loud.mean())
    found.leading = float(loud.argmax() * frame)
    found.trailing = float(loud[::-1].argmax() * frame)
    if len(waveform) < extractor.n_fft:
        return found
    spectrum = extractor.log_power(np.diff(waveform)).exp().numpy().astype(np.float64).mean(0)
    found.spectrum = spectrum / spectrum.sum()
    found.roll_off = roll_off(found.spectrum, sampling_rate)
    return found


def roll_off(spectrum: np.ndarray, sampling_rate: int) -> float:
    """The frequency in hertz below which 99.9 % of a power spectrum lies, shape (bins,) from 0 to half the sampling rate."""
    shares = np.cumsum(spectrum) / spectrum.sum()
    return float(np.searchsorted(shares, ROLL_OFF) * sampling_rate / 2 / (len(spectrum) - 1))


def source_rate(frequency: float, sampling_rate: int = 16_000) -> int:
    """The sampling rate that a recording with this roll-off was most likely made at."""
    return next((rate for rate in SOURCE_RATES if frequency <= rate / 2), sampling_rate)


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little", signed=True)


def _measure_rows(utterances: list[Utterance]) -> list[AudioMeasurements]:
    return [measure_audio(utterance) for utterance in utterances]


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


def verify(
    path: str,
    splits: list[str],
    tokenizer: DeepSpeech2CTCTokenizer | None = None,
    time_stride: int = 2,
    language: str | None = None,
    columns: tuple[str, str, str, str] = ("audio", "text", "speaker_id", "duration"),
    num_processes: int = 1,
    show_progress: bool = True,
) -> Verification:
    """Reads splits of a data set and says what is in them.

    Args:
        path, splits: the data set and its splits, see [`open_source`]; those called train… are for training.
        tokenizer: its alphabet; without it, that of the training splits (of all, where there are none).
        time_stride: the model's input frames for each output frame.
        language: whose text rules hold where there is no tokenizer.
        columns: what audio, transcripts, speakers and seconds are called.

    Raises:
        DataError: a split cannot be opened.
        UserError: a stride below 1.
    """
    if time_stride < 1:
        raise UserError(f"time_stride must be at least 1, but is {time_stride}.")
    audio_column, text_column, speaker_column, duration_column = columns
    sources = {split: open_source(path, split, audio_column, text_column) for split in splits}
    if tokenizer is None:
        training = [split for split in splits if is_training(split)] or splits
        texts = (as_text(text) for split in training for text in _texts(sources[split]))
        tokenizer = DeepSpeech2CTCTokenizer.from_texts(texts, language=language)
    extractor = DeepSpeech2FeatureExtractor()
    parts: list[pandas.DataFrame] = []
    characters: dict[str, Counter] = {split: Counter() for split in splits}
    spectra: dict[str, np.ndarray] = {split: np.zeros(extractor.feature_size) for split in splits}
    wanted = ["id", audio_column, text_column, speaker_column, duration_column]
    speakers: dict[str, str] = {}  # one string for all utterances of a speaker
    for split, source in sources.items():
        waiting: list[list[dict]] = []  # what the text says, until the audio has been measured

        def batches(split=split, source=source, waiting=waiting) -> Iterator[list[Utterance]]:
            place = 0
            for shard in range(source.num_shards):
                for table in source.tables(shard, wanted):
                    for start in range(0, len(table), ROWS_AT_A_TIME):
                        batch, known = [], []
                        for row in table.slice(start, ROWS_AT_A_TIME).to_pylist():
                            audio = {"bytes": None, "path": None} | source.audio(row)
                            name = as_text(row.get("id")) or audio["path"] or f"{split}, row {place}"
                            text, speaker = as_text(row[text_column]), as_text(row.get(speaker_column))
                            batch.append(Utterance(name, audio, text))
                            declared = row.get(duration_column)
                            known.append(
                                {
                                    "split": split,
                                    "name": name,
                                    "speaker": speakers.setdefault(speaker, speaker),
                                    "declared": math.nan if declared is None else float(declared),
                                    **_measure_text(text, tokenizer, characters[split]),
                                }
                            )
                            place += 1
                        waiting.append(known)
                        yield batch

        rows: list[dict] = []
        with tqdm(desc=split, unit=" utterances", disable=not show_progress) as bar:
            for measured in map_in_processes(_measure_rows, batches(), num_processes):
                for known, audio in zip(waiting.pop(0), measured):
                    if audio.spectrum is not None:
                        spectra[split] += audio.spectrum
                    found = {name: value for name, value in vars(audio).items() if name != "spectrum"}
                    frames = extractor.num_frames(round(audio.seconds * extractor.sampling_rate))
                    rows.append(known | found | {"available": math.ceil(frames / time_stride)})
                bar.update(len(measured))
                if len(rows) >= ROWS_OF_A_PART:  # a table takes a tenth of the memory of its rows
                    parts.append(pandas.DataFrame(rows))
                    rows = []
        if rows:
            parts.append(pandas.DataFrame(rows))
    if not parts:
        raise DataError(f"The splits {', '.join(splits)} of {path} hold no utterance.")
    utterances = pandas.concat(parts, ignore_index=True)
    found = Verification(utterances, characters, spectra, [], tokenizer, time_stride)
    for check in _CHECK_FUNCTIONS:
        found.findings += check(found)
    for split in set(splits) - set(utterances["split"]):
        found.findings.append(Finding("unreadable", True, split, "The split holds no utterance."))
    found.findings.sort(key=lambda finding: (not finding.spoils, list(CHECKS).index(finding.check)))
    return found


def _texts(source: Source) -> Iterator[str]:
    for shard in range(source.num_shards):
        for table in source.tables(shard, [source.text_column]):
            yield from table[source.text_column].to_pylist()


def _measure_text(text: str, tokenizer: DeepSpeech2CTCTokenizer, characters: Counter) -> dict:
    normalized = tokenizer.normalize(text)
    labels = tokenizer(text)["input_ids"]
    occurring = Counter(normalized.replace(" ", ""))
    characters.update(occurring)
    return {
        "sentence": _hash(normalized.encode()),
        "characters": occurring.total(),
        "labels": len(labels),
        # CTC needs a frame for each label, and a blank between two equal ones.
        "needed": len(labels) + sum(a == b for a, b in zip(labels, labels[1:])),
        "unknown": sum(tokenizer.unknown_characters(text).values()),
    }


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
        # What training does not have is told below, where there is training.
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
            for other, heard in held_out.items():
                common = sorted(set(counts.index).intersection(heard).difference(both))
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
            heard = rows[rows["roll_off"] > 0]
            narrow = heard["roll_off"].map(lambda hertz: source_rate(hertz) in SOURCE_RATES)
            what = "have nothing above 5.5 kHz, unlike the rest"
            findings += _count(heard, narrow, what, "bandwidth", split, spoils=False)
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


_CHECK_FUNCTIONS = (
    find_unusable,
    find_characters,
    find_repetitions,
    find_speakers,
    find_bandwidth,
    find_audio,
    find_character_rates,
)
