"""The mean of several models is the mean of all that they were trained to, and nothing else is averaged."""

import copy
import json
import resource
from pathlib import Path

import pytest
import torch

from modeling_deepspeech2 import DeepSpeech2CTCTokenizer, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.training.averaging import average


def test_the_mean_of_weights_and_statistics(make_tiny_model):
    models = [make_tiny_model().half() for _ in range(3)]
    for number, model in enumerate(models):
        for tensor in model.state_dict().values():
            tensor.copy_(tensor + number)
    for name, tensor in average(models).state_dict().items():
        own = torch.stack([model.state_dict()[name].double() for model in models])
        assert torch.allclose(tensor.double(), own.mean(0), atol=1e-6), name


def test_command_line(make_tiny_model, processor, tiny_model_folder, tmp_path, capsys):
    """One model's mean is itself; another network is refused in one sentence."""
    assert not main(["average", str(tiny_model_folder), str(tiny_model_folder), "--output", str(tmp_path / "mean")])
    one, mean = (DeepSpeech2ForCTC.from_pretrained(folder).state_dict() for folder in (tiny_model_folder, tmp_path / "mean"))
    assert all(torch.equal(tensor, mean[name]) for name, tensor in one.items())
    make_tiny_model(num_hidden_layers=1).save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    assert main(["average", str(tiny_model_folder), str(tmp_path / "other"), "--output", str(tmp_path / "none")]) == 2
    assert "one network" in capsys.readouterr().err


@pytest.mark.parametrize("difference", ["activation", "alphabet", "features"])
def test_models_of_equal_shapes_may_still_be_others(difference, make_tiny_model, processor, tmp_path, capsys):
    """Their mean would be written, and recognise nothing."""
    for name in ("one", "other"):
        own, settings = copy.deepcopy(processor), {}
        if name == "other" and difference == "activation":
            settings = {"hidden_act": "tanh"}
        if name == "other" and difference == "alphabet":
            symbols = [*own.tokenizer.get_vocab()]
            vocabulary = dict(zip(symbols, [0, 1, *range(len(symbols) - 1, 1, -1)]))
            (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
            own = DeepSpeech2Processor(own.feature_extractor, DeepSpeech2CTCTokenizer(str(tmp_path / "vocab.json")))
        if name == "other" and difference == "features":
            own.feature_extractor.normalization = "none"
        make_tiny_model(**settings).save_pretrained(tmp_path / name)
        own.save_pretrained(tmp_path / name)
    places = [str(tmp_path / name) for name in ("one", "other", "mean")]
    assert main(["average", *places[:2], "--output", places[2]]) == 2
    assert "averaged" in capsys.readouterr().err and not Path(places[2]).exists()


def test_a_full_disk_is_one_sentence(tiny_model_folder, tmp_path, capsys):
    """A limit on the size of files stands for it; safetensors has an error of its own for it."""
    arguments = ["average", str(tiny_model_folder), str(tiny_model_folder), "--output", str(tmp_path / "mean")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        status = main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    *_, error = capsys.readouterr().err.splitlines()
    assert status == 2 and f"{tmp_path / 'mean'} could not be written" in error
