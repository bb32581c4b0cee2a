"""What a recipe, or the command line, can say; every field is one of three dataclasses.

The model's fields are those of `DeepSpeech2Config` itself, but for the ones that tokenizer and feature extractor settle.
"""

import dataclasses
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from ..configuration_deepspeech2 import DeepSpeech2Config


_SETTLED_ELSEWHERE = {"vocab_size", "pad_token_id", "num_frequency_bins", "sampling_rate", "hop_length"}
_PAIRS = ("conv_kernel_sizes", "conv_strides")


def _pair(name: str, text: str) -> list[int]:
    """41x11 -> [41, 11]"""
    numbers = text.split("x")
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        raise ValueError(f"{name} needs pairs FREQUENCYxTIME such as 41x11, but found {text!r}.")
    return [int(number) for number in numbers]


def _model_field(name: str) -> tuple[str, type, dataclasses.Field]:
    default = DeepSpeech2Config.__dataclass_fields__[name].default
    kind = DeepSpeech2Config.__annotations__[name]
    if name in _PAIRS:
        default, kind = ["x".join(map(str, pair)) for pair in default], list[str]
    elif name == "conv_channels":
        default, kind = list(default), list[int]
    elif kind == float | int:
        kind = float
    help = DeepSpeech2Config.__dataclass_fields__[name].metadata["help"]
    metadata = {"help": help.replace("%", "%%")}
    if isinstance(default, list):
        return name, kind, field(default_factory=lambda: default, metadata=metadata)
    return name, kind, field(default=default, metadata=metadata)


ModelArguments = dataclasses.make_dataclass(
    "ModelArguments",
    [
        *(_model_field(name) for name in DeepSpeech2Config.own_fields() if name not in _SETTLED_ELSEWHERE),
        ("given", set, field(default_factory=set, init=False)),  # the names of those that somebody set
    ],
)
ModelArguments.__doc__ = "The network; of a saved model only what is set here changes."


def model_settings(arguments) -> dict:
    """The fields of `ModelArguments` as `DeepSpeech2Config` takes them."""
    settings = dataclasses.asdict(arguments)
    del settings["given"]
    for name in _PAIRS:
        settings[name] = [_pair(name, pair) for pair in settings[name]]
    return settings


def given_settings(arguments) -> dict:
    """Those of `model_settings` that a recipe or the command line set."""
    return {name: value for name, value in model_settings(arguments).items() if name in arguments.given}


@dataclass
class DataArguments:
    """The speech, and the alphabet that it is written in."""

    dataset: str = field(
        default="",
        metadata={"help": "A data set's name on the Hub, a folder of parquet shards, or an audio folder with metadata.csv."},
    )
    train: list[str] = field(
        default_factory=lambda: ["train"],
        metadata={
            "help": "Splits to train on, each DATA SET::CONFIGURATION/SPLIT, of which only SPLIT must be there; after it "
            "perhaps a part, drawn by a hash, such as [:80%%] or [80%%:], and how often an epoch reads it, as *0.5 or *3."
        },
    )
    validation: list[str] = field(
        default_factory=list,
        metadata={"help": "Splits that choose the best model; without any, validation_share of the training data does."},
    )
    validation_share: float = field(
        default=0.05,
        metadata={"help": "Share of the training utterances held out where there is no validation split."},
    )
    test: list[str] = field(
        default_factory=list, metadata={"help": "Splits measured at the end, or by --eval_only, each by itself."}
    )
    audio_column: str = field(default="audio", metadata={"help": "The column with the audio."})
    text_column: str = field(default="text", metadata={"help": "The column with the transcripts."})
    duration_column: str = field(
        default="duration",
        metadata={"help": "The column with the seconds of each utterance; without it they are measured, once."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub name of the tokenizer: its alphabet and its text rules. Without it that of --model, else "
            "tokenizer/english; with another alphabet than --model's, the model gets a new output layer."
        },
    )
    normalization: Literal["training_set", "utterance", "none"] = field(
        default="training_set",
        metadata={"help": "Of the features; anything but training_set is not for live use. A saved model keeps its own."},
    )
    statistics_utterances: int = field(
        default=2_000, metadata={"help": "How many training utterances the statistics of the features come from."}
    )

    def __post_init__(self):
        if not self.dataset:
            raise ValueError("dataset is missing: a data set's name on the Hub, or a folder.")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must lie in [0, 1), but is {self.validation_share}.")
        if not self.validation and not self.validation_share:
            raise ValueError("Choosing the best model needs validation splits, or a validation_share above 0.")


@dataclass
class TrainingArguments:
    """How long and how hard to train, and where to write."""

    output_dir: str = field(default="runs/deepspeech2", metadata={"help": "Checkpoints, curves and the finished model."})
    model: str | None = field(
        default=None,
        metadata={"help": "A saved model, folder or Hub name, to go on from (fine-tuning) or to measure; '' for none."},
    )
    max_seconds: float = field(default=0.0, metadata={"help": "Leave longer utterances out of training; 0 for none."})
    sorta_grad: bool = field(
        default=True, metadata={"help": "The first epoch goes from the shortest utterance to the longest (SortaGrad)."}
    )
    shuffle_memory: int = field(
        default=256,
        metadata={
            "help": "Megabytes of encoded audio held, on all processes together: half of it to draw the order from, half "
            "being read ahead."
        },
    )
    num_workers: int = field(
        default=0, metadata={"help": "Processes that decode audio beside the training process; 0 decodes in it."}
    )
    num_epochs: int = field(default=20, metadata={"help": "Passes over the training data."})
    max_steps: int | None = field(default=None, metadata={"help": "Stop after so many steps, whatever num_epochs says."})
    batch_size: int = field(default=16, metadata={"help": "Utterances in a batch, of each process."})
    batch_seconds: float = field(
        default=0.0,
        metadata={"help": "Instead of batch_size, seconds in a batch: as many utterances as fit, padded to the longest."},
    )
    model_parallel: bool = field(
        default=False,
        metadata={"help": "Processes in pairs that share out each layer's two directions and the output symbols."},
    )
    gradient_accumulation_steps: int = field(
        default=1,
        metadata={"help": "Batches whose gradients make one step, as if they were one; only BatchNorm sees each alone."},
    )
    speed_perturbation: float = field(
        default=0.0, metadata={"help": "Play each training utterance up to this share faster or slower, such as 0.1."}
    )
    gain: float = field(
        default=0.0, metadata={"help": "Make each training utterance louder or softer, by up to so many dB."}
    )
    noise_share: float = field(
        default=0.0, metadata={"help": "Share of the training utterances with noise at 0 to 30 dB; 0.4 in the paper."}
    )
    noise: str | None = field(
        default=None,
        metadata={"help": "A folder of noise, or DATA SET::SPLIT; without it coloured noise is made up."},
    )
    codec_share: float = field(
        default=0.0, metadata={"help": "Share of the training utterances sent through a telephone line or lossy codec."}
    )
    silence_share: float = field(
        default=0.0,
        metadata={"help": "Share of the training utterances with up to a second of silence or low noise on either side."},
    )
    spec_augment: float = field(
        default=0.0,
        metadata={
            "help": "Strength of the masks over frequency and time of the training features (SpecAugment): 1 as published, "
            "0 for none."
        },
    )
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "adamw, or the paper's sgd with Nesterov momentum."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "At its highest; 1e-4 to 6e-4 with the paper's sgd."})
    momentum: float = field(default=0.99, metadata={"help": "Of sgd."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of adamw."})
    lr_schedule: Literal["anneal", "linear", "cosine", "constant"] = field(
        default="anneal", metadata={"help": "anneal divides the learning rate after every epoch, as the paper does."}
    )
    anneal: float = field(default=1.2, metadata={"help": "What the learning rate is divided by after each epoch."})
    warmup_steps: int = field(default=0, metadata={"help": "Steps over which the learning rate rises from zero."})
    max_grad_norm: float = field(default=400.0, metadata={"help": "Gradients are clipped to this norm."})
    mixed_precision: Literal["no", "bf16", "fp16"] | None = field(
        default=None, metadata={"help": "By Accelerate; without it what `accelerate launch` or its configuration says."}
    )
    float32_precision: Literal["highest", "high", "medium"] = field(
        default="highest",
        metadata={
            "help": "Of float32 products: high and medium let them round to TF32 or bf16 inside, where that is faster."
        },
    )
    eval_batch_size: int = field(default=16, metadata={"help": "Utterances in a batch of an evaluation."})
    eval_epochs: int = field(default=1, metadata={"help": "Epochs from one validation to the next."})
    eval_steps: int = field(default=0, metadata={"help": "Instead of eval_epochs, steps from one validation to the next."})
    patience: int = field(default=0, metadata={"help": "Stop after so many validations without a better one; 0 for never."})
    keep: int = field(default=1, metadata={"help": "Checkpoints kept, the newest ones."})
    save_steps: int = field(
        default=500, metadata={"help": "Steps from one checkpoint to the next; each epoch ends with one."}
    )
    logging_steps: int = field(default=10, metadata={"help": "Steps from one line of the curves to the next."})
    seed: int = field(default=0, metadata={"help": "Of weights, order and dropout."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir."})
    eval_only: bool = field(default=False, metadata={"help": "Only measure --model on the test splits."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the finished model."})
    hub_model_id: str | None = field(default=None, metadata={"help": "USER/NAME to publish as."})

    def __post_init__(self):
        at_least_1 = (
            "num_epochs batch_size gradient_accumulation_steps eval_batch_size eval_epochs keep save_steps logging_steps "
            "shuffle_memory"
        )
        for name in at_least_1.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        at_least_0 = "patience eval_steps batch_seconds max_seconds num_workers warmup_steps gain momentum weight_decay"
        for name in at_least_0.split():
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, but is {getattr(self, name)}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, but is {self.max_steps}.")
        for name in ("learning_rate", "anneal", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, but is {getattr(self, name)}.")
        for name in ("speed_perturbation", "noise_share", "codec_share", "silence_share", "spec_augment"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], but is {getattr(self, name)}.")
        if self.speed_perturbation == 1:
            raise ValueError("speed_perturbation must be below 1.")
        if self.noise and "::" not in self.noise and not Path(self.noise).is_dir():
            raise ValueError(f"noise must be a folder of recordings or DATA SET::SPLIT; there is no folder {self.noise}.")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id, such as --hub_model_id=me/my-model.")
        if self.eval_only and not self.model:
            raise ValueError("eval_only needs model, the saved model to measure.")


def parse_arguments(argv: list[str], description: str) -> tuple:
    """Reads an optional recipe and what the command line changes of it.

    Args:
        argv: `[RECIPE.yaml] [--field=value …]`.

    Returns:
        `ModelArguments`, `DataArguments`, `TrainingArguments`.

    Exits with a message on an unknown field, a value of the wrong kind, or a missing recipe.
    """
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, TrainingArguments),
        description=description,
        usage="%(prog)s [RECIPE.yaml] [--field=value …]",
        allow_abbrev=False,
    )
    if argv and not argv[0].startswith("-"):
        argv = [*_recipe(parser, Path(argv[0])), *argv[1:]]
    try:
        model, data, training = parser.parse_args_into_dataclasses(argv)
        flags = (argument.partition("=")[0] for argument in argv if argument.startswith("--"))
        model.given = {re.sub("^no_", "", flag[2:].replace("-", "_")) for flag in flags}
        DeepSpeech2Config(**model_settings(model))  # says what is wrong before any work
    except (ValueError, StrictDataclassError) as error:
        parser.error(str(error))
    return model, data, training


def _recipe(parser: HfArgumentParser, path: Path) -> list[str]:
    """A recipe's fields as command line arguments, which argparse then checks."""
    if not path.is_file():
        parser.error(f"there is no recipe {path}")
    fields = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(fields, dict):
        parser.error(f"the recipe {path} must be a list of 'field: value' lines")
    arguments = []
    for name, value in fields.items():
        if not isinstance(value, list):
            arguments.append(f"--{name}={value}")
        elif value:
            arguments += [f"--{name}", *map(str, value)]
    return arguments


def command_line() -> str:
    """The command that started this process, for the model card."""
    return " ".join(["accelerate launch", Path(sys.argv[0]).name, *sys.argv[1:]])
