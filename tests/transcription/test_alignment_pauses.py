"""Lines of known texts begin where they are said, however long the pause before them; real clips, joined with pauses."""

import itertools

import numpy as np
import pytest

from benchmarks.recordings import join, read_clips
from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.corpus.segments import CuttingSettings, Line, segment_recording
from modeling_deepspeech2.transcription.alignment import align


KINDS = ["-60", "-45", "digital silence", "tone"]


@pytest.mark.parametrize(
    ("checkpoint", "language"),
    [("deepspeech2-english", "english"), ("deepspeech2-english-live", "english"), ("deepspeech2-mandarin", "mandarin")],
)
def test_lines_begin_behind_the_pause(checkpoint, language):
    """20 lines with pauses of 1, 2 and 5 s of noise, digital silence or a tone: none begins more than 0.3 s off.

    A network that reads both ways gives first letters, and at times the first word, before the pause. Segments of a corpus
    are cut beside the same words.
    """
    folder = f"checkpoints/{checkpoint}"
    model, processor = DeepSpeech2ForCTC.from_pretrained(folder).eval(), DeepSpeech2Processor.from_pretrained(folder)
    clips = read_clips(language)
    drawn = [clips[index] for index in np.random.default_rng(1).choice(len(clips), 20, replace=False)]
    pauses = list(itertools.islice(itertools.cycle((kind, length) for length in (5, 2, 1) for kind in KINDS), 20))
    waveform, starts = join([clip for clip, _ in drawn], pauses)
    lines = align(waveform, [text for _, text in drawn], model, processor).lines
    late = np.array([line.start for line in lines]) - starts
    assert abs(late).max() <= 0.3, (pauses[abs(late).argmax()], lines[abs(late).argmax()])

    if language == "english" and model.config.bidirectional:
        settings = CuttingSettings(seconds=3.0)
        segments = segment_recording(waveform, [Line(text) for _, text in drawn], model, processor, settings)
        words_before = np.cumsum([0, *(len(segment.text.split()) for segment in segments)])
        begins = dict(zip(np.cumsum([0, *(len(text.split()) for _, text in drawn)]).tolist(), zip(starts, pauses)))
        found = [(segment, *begins[words]) for segment, words in zip(segments, words_before.tolist()) if words in begins]
        # A louder background may be speech that the transcript lacks, and stays for the filter to judge.
        found = [(segment, start) for segment, start, (kind, _) in found if kind in ("-60", "digital silence")]
        assert len(found) > 4
        for segment, start in found:
            assert start - settings.edge - 0.3 <= segment.start <= start + 0.3
