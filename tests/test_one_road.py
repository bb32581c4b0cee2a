"""Law 8: what is reported is what people get. One text for a clip, whichever way it is transcribed."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.agreement import Roads, write_clips


NUM_CLIPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Clips of the bundled test split, as files and as a data set."""
    folder = tmp_path_factory.mktemp("clips")
    assert write_clips("demo/speech::english/test", NUM_CLIPS, folder) == NUM_CLIPS
    return folder


@pytest.mark.parametrize("checkpoint", ["deepspeech2-english", "deepspeech2-english-live"])
@pytest.mark.parametrize("with_decoder", [False, True], ids=["best path", "language model"])
def test_every_road_gives_the_same_text(folder, tmp_path, checkpoint, with_decoder):
    """The trained models, through the pipeline, the command, the evaluation and, where they are live, a stream.

    The beam is narrow, to be fast; the texts are words, and not all alike.
    """
    model = tmp_path / checkpoint
    shutil.copytree(Path("checkpoints") / checkpoint, model)
    decoder = json.loads((model / "decoder_config.json").read_text())
    (model / "decoder_config.json").write_text(json.dumps(decoder | {"beam_width": 10}))
    roads = Roads(model, folder, with_decoder).all()
    assert len(roads) == 4 if "live" in checkpoint else len(roads) == 3
    expected = roads.pop("pipeline")()
    assert sum(len(text.split()) > 2 for text in expected) > NUM_CLIPS / 2
    for name, road in roads.items():
        assert road() == expected, name
