"""Several trainings of one network -> their mean (Izmailov et al., arXiv 1803.05407).

    python -m modeling_deepspeech2.training.averaging runs/first runs/second --output runs/mean

In come models that went on from one another with a high learning rate at first, out goes the model with the mean of their
weights and of their BatchNorm statistics. It often makes fewer errors than each of them; measure it on a development split.
"""

import argparse
import sys
from pathlib import Path

import torch

from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from .publishing import save_repository


def average(models: list[DeepSpeech2ForCTC]) -> DeepSpeech2ForCTC:
    """A new model, in float32.

    Raises:
        ValueError: their networks differ.
    """
    states = [model.state_dict() for model in models]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("Only models of one network can be averaged; these have other layers or another alphabet.")
    mean = DeepSpeech2ForCTC(models[0].config)
    with torch.no_grad():
        for name, tensor in mean.state_dict().items():
            tensor.copy_(torch.stack([state[name].double() for state in states]).mean(0))
    return mean


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_deepspeech2.training.averaging",
        description=__doc__.split("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", help="folders, or names on the Hub; the processor is that of the first")
    parser.add_argument("--output", required=True, type=Path)
    settings = parser.parse_args(arguments)
    try:
        mean = average([DeepSpeech2ForCTC.from_pretrained(name) for name in settings.models])
        save_repository(settings.output, mean, DeepSpeech2Processor.from_pretrained(settings.models[0]))
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
