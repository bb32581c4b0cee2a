"""The mean of several models is the mean of all that they were trained to, and nothing else is averaged."""

import torch

from modeling_deepspeech2 import DeepSpeech2ForCTC
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


def test_command_line(make_tiny_model, tiny_model_folder, tmp_path, capsys):
    """One model's mean is itself; another network is refused in one sentence."""
    assert not main(["average", str(tiny_model_folder), str(tiny_model_folder), "--output", str(tmp_path / "mean")])
    one, mean = (DeepSpeech2ForCTC.from_pretrained(folder).state_dict() for folder in (tiny_model_folder, tmp_path / "mean"))
    assert all(torch.equal(tensor, mean[name]) for name, tensor in one.items())
    make_tiny_model(num_hidden_layers=1).save_pretrained(tmp_path / "other")
    assert main(["average", str(tiny_model_folder), str(tmp_path / "other"), "--output", str(tmp_path / "none")]) == 2
    assert "one network" in capsys.readouterr().err
