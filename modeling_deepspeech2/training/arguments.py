"""The fields that a recipe or the command line can set: the network, the data, and the run.

The network's fields are those of `DeepSpeech2Config`, except those that follow from the tokenizer and the features.
"""

import argparse
import dataclasses
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..errors import UserError
from .output_folder import MARKER
from .recipe import check_name, read_recipe


_FOLLOW_FROM_OTHERS = {"vocab_size", "pad_token_id", "num_frequency_bins", "sampling_rate", "hop_length", "word_confidence"}
_PAIRS = ("conv_kernel_sizes", "conv_strides")


@dataclass(frozen=True)
class Range:
    """The numbers that a field may hold."""

    low: float = -math.inf
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value or (self.low == value and not self.without_low)) and (
            value < self.high or (value == self.high and not self.without_high)
        )

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.without_low else f"of at least {self.low:g}"
        return f"in {'(' if self.without_low else '['}{self.low:g}, {self.high:.10g}{')' if self.without_high else ']'}"


AtLeast1 = Annotated[int, Range(1)]
AtLeast0 = Annotated[int, Range(0)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, without_low=True)]
Share = Annotated[float, Range(0, 1)]
ShareBelow1 = Annotated[float, Range(0, 1, without_high=True)]


def check_ranges(arguments: object) -> None:
    """
    Raises:
        UserError: a number outside the range of its field, or none at all (NaN, infinity).
    """
    for name, kind in get_type_hints(type(arguments), include_extras=True).items():
        value = getattr(arguments, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        allowed = next((part for part in get_args(kind) if isinstance(part, Range)), Range())
        if not math.isfinite(value) or value not in allowed:
            expected = "a finite number" if allowed == Range() else f"a number {allowed}"
            raise UserError(f"{name}: found {value}, expected {expected}.")


@dataclass
class DataArguments:
    """The speech, and its alphabet."""

    dataset: str = field(
        default="",
        metadata={"help": "A data set's name on the Hub, a folder of parquet shards, or an audio folder with metadata.csv."},
    )
    train: list[str] = field(
        default_factory=lambda: ["train"],
        metadata={
            "help": "Splits to train on, each [DATA SET::][CONFIGURATION/]SPLIT; optionally followed by a part, drawn by a "
            "hash, such as [:80%%] or [80%%:], and by how often an epoch reads it, as *0.5 or *3."
        },
    )
    validation: list[str] = field(
        default_factory=list,
        metadata={"help": "Splits that choose the best model; without any, validation_share of the training data does."},
    )
    validation_share: ShareBelow1 = field(
        default=0.05,
        metadata={"help": "Share of the training utterances held out where there is no validation split."},
    )
    test: list[str] = field(
        default_factory=list, metadata={"help": "Splits measured separately, at the end of training or by --eval_only."}
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
            "help": "Folder or Hub name of the tokenizer: its alphabet and its text rules; by default that of --model, else "
            "tokenizer/english. With an alphabet other than --model's, letters that both have keep their output weights."
        },
    )
    normalization: Literal["training_set", "utterance", "none"] = field(
        default="training_set",
        metadata={"help": "How features are scaled. Live use needs training_set or none. A saved model keeps its own."},
    )
    statistics_utterances: AtLeast1 = field(
        default=2_000, metadata={"help": "Training utterances from which the statistics of the features are taken."}
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.dataset:
            raise UserError("dataset is missing: expected a data set's name on the Hub, or a folder.")
        if not self.validation and not self.validation_share:
            raise UserError("Choosing the best model needs validation splits, or a validation_share above 0.")


@dataclass
class RunArguments:
    """Optimisation, augmentation, evaluation, and where to write; names as in `transformers.TrainingArguments`."""

    output_dir: str = field(default="runs/deepspeech2", metadata={"help": "Checkpoints, curves and the finished model."})
    model: str | None = field(
        default=None,
        metadata={"help": "A saved model, folder or Hub name, to fine-tune or to measure; '' for none."},
    )
    max_seconds: NotNegative = field(default=0.0, metadata={"help": "Leave longer utterances out of training; 0 for none."})
    sorta_grad: bool = field(
        default=True, metadata={"help": "The first epoch goes from the shortest utterance to the longest (SortaGrad)."}
    )
    shuffle_memory: AtLeast1 = field(
        default=256,
        metadata={
            "help": "Megabytes of encoded audio held, on all processes together: half of it to draw the order from, half "
            "being read ahead."
        },
    )
    dataloader_num_workers: AtLeast0 = field(
        default=0, metadata={"help": "Processes that decode audio beside the training process; 0 decodes in it."}
    )
    num_train_epochs: AtLeast1 = field(default=20, metadata={"help": "Passes over the training data."})
    max_steps: Annotated[int | None, Range(1)] = field(
        default=None, metadata={"help": "Stop after so many steps, whatever num_train_epochs says."}
    )
    per_device_train_batch_size: AtLeast1 = field(default=16, metadata={"help": "Utterances in a batch, of each process."})
    batch_seconds: NotNegative = field(
        default=0.0,
        metadata={"help": "Instead of per_device_train_batch_size, seconds in a batch, padding to the longest included."},
    )
    tensor_parallel_size: AtLeast1 = field(
        default=1,
        metadata={
            "help": "Processes that share the layers of one model: the two directions, and the output symbols; 1: each has "
            "a whole model."
        },
    )
    gradient_accumulation_steps: AtLeast1 = field(
        default=1,
        metadata={"help": "Batches whose gradients make one step, as if they were one; only BatchNorm sees each alone."},
    )
    speed_perturbation: ShareBelow1 = field(
        default=0.0, metadata={"help": "Play each training utterance up to this share faster or slower, such as 0.1."}
    )
    gain: NotNegative = field(
        default=0.0, metadata={"help": "Make each training utterance louder or softer, by up to so many dB."}
    )
    noise_share: Share = field(
        default=0.0, metadata={"help": "Share of the training utterances with noise at 0 to 30 dB; 0.4 in the paper."}
    )
    noise: str | None = field(
        default=None,
        metadata={"help": "A folder of noise, or DATA SET::SPLIT; without it coloured noise is made up."},
    )
    room_share: Share = field(
        default=0.0, metadata={"help": "Share of the training utterances with the echoes of a simulated room."}
    )
    codec_share: Share = field(
        default=0.0, metadata={"help": "Share of the training utterances sent through a telephone line or lossy codec."}
    )
    silence_share: Share = field(
        default=0.0,
        metadata={"help": "Share of the training utterances with up to a second of silence or low noise on either side."},
    )
    join_share: Share = field(
        default=0.0, metadata={"help": "Share of the training batches whose utterances are joined in pairs, up to 20 s."}
    )
    spec_augment: Share = field(
        default=0.0,
        metadata={
            "help": "Strength of the masks over frequency and time of the training features (SpecAugment): 1 as published, "
            "0 for none."
        },
    )
    freeze_batch_norm: bool = field(
        default=False,
        metadata={
            "help": "Training, too, normalises by the running averages of BatchNorm, as recognition does; for the last "
            "epochs where some batches differ from the others, such as single words among sentences."
        },
    )
    optim: Literal["adamw_torch", "sgd"] = field(
        default="adamw_torch", metadata={"help": "AdamW, or the paper's SGD with Nesterov momentum."}
    )
    learning_rate: Positive = field(default=1e-3, metadata={"help": "Peak value; 1e-4 to 6e-4 with the paper's sgd."})
    momentum: Annotated[float, Range(0, 1, without_low=True, without_high=True)] = field(
        default=0.99, metadata={"help": "Momentum of sgd."}
    )
    weight_decay: NotNegative = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    lr_scheduler_type: Literal["anneal", "linear", "cosine", "constant"] = field(
        default="anneal", metadata={"help": "anneal divides the learning rate after every epoch, as the paper does."}
    )
    anneal: Positive = field(default=1.2, metadata={"help": "What the learning rate is divided by after each epoch."})
    warmup_steps: AtLeast0 = field(default=0, metadata={"help": "Steps over which the learning rate rises from zero."})
    max_grad_norm: Positive = field(default=400.0, metadata={"help": "Gradients are clipped to this norm."})
    mixed_precision: Literal["no", "bf16", "fp16"] | None = field(
        default=None, metadata={"help": "By default what `accelerate launch` or its configuration says."}
    )
    float32_precision: Literal["highest", "high", "medium"] = field(
        default="highest",
        metadata={"help": "Of float32 matrix products: high and medium may round to TF32 or bf16 where that is faster."},
    )
    per_device_eval_batch_size: AtLeast1 = field(default=16, metadata={"help": "Utterances in a batch of an evaluation."})
    eval_epochs: AtLeast1 = field(default=1, metadata={"help": "Epochs from one validation to the next."})
    eval_steps: AtLeast0 = field(
        default=0, metadata={"help": "Instead of eval_epochs, steps from one validation to the next."}
    )
    patience: AtLeast0 = field(
        default=0, metadata={"help": "Stop after so many validations without a better one; 0 for never."}
    )
    save_total_limit: AtLeast1 = field(
        default=2, metadata={"help": "Checkpoints kept, the newest ones; an older one is used where the newest is damaged."}
    )
    save_steps: AtLeast1 = field(
        default=500, metadata={"help": "Steps from one checkpoint to the next; each epoch ends with one."}
    )
    logging_steps: AtLeast1 = field(default=10, metadata={"help": "Steps from one line of the curves to the next."})
    report_to: Literal["tensorboard", "trackio", "wandb", "none"] = field(
        default="tensorboard",
        metadata={"help": "Tracker of losses and error rates; tensorboard writes to output_dir/run_ctc."},
    )
    seed: Annotated[int, Range(0, 2**32 - 1)] = field(default=0, metadata={"help": "Random seed: weights, order, dropout."})
    resume: bool = field(default=False, metadata={"help": "Continue from the newest checkpoint in output_dir."})
    eval_only: bool = field(default=False, metadata={"help": "Only measure --model on the test splits."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the finished model."})
    hub_model_id: str | None = field(default=None, metadata={"help": "USER/NAME to publish as."})
    hub_private_repo: bool = field(default=False, metadata={"help": "Publish as a private repository, if it is new."})

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.output_dir.strip():
            raise UserError("output_dir: found '', expected the folder to write to, such as runs/english.")
        if self.noise and "::" not in self.noise and not Path(self.noise).is_dir():
            raise UserError(f"noise must be a folder of recordings or DATA SET::SPLIT; there is no folder {self.noise}.")
        if self.push_to_hub and not self.hub_model_id:
            raise UserError("push_to_hub needs hub_model_id, such as --hub_model_id=me/my-model.")
        if self.eval_only and not self.model:
            raise UserError("eval_only needs model, the saved model to measure.")


class Settings(NamedTuple):
    """What a run was asked to do."""

    network: dict[str, Any]  # those fields of `DeepSpeech2Config` that the recipe or the command line set
    data: DataArguments
    run: RunArguments
    given: frozenset[str]  # the fields that were set, of all three
    recipe: Path | None

    def resolved(self) -> dict[str, Any]:
        """All fields by name, with their defaults; of the network those that were set."""
        return {**self.network, **dataclasses.asdict(self.data), **dataclasses.asdict(self.run)}


def parse_arguments(argv: Sequence[str], description: str) -> Settings:
    """Reads an optional recipe and what the command line changes of it.

    Args:
        argv: `[RECIPE.yaml] [--field=value …]`.

    Exits with a message on an unknown field, a value of the wrong kind or out of range, or a recipe that cannot be read.
    """
    parser = HfArgumentParser(
        (_NetworkFields, DataArguments, RunArguments),
        description=description,
        usage="%(prog)s [RECIPE.yaml] [--field=value …]",
        allow_abbrev=False,
    )
    names = [field.name for kind in parser.dataclass_types for field in dataclasses.fields(kind)]
    recipe = Path(argv[0]) if argv and not argv[0].startswith("-") else None
    try:
        for argument in argv:
            if argument.startswith("--") and argument not in ("--", "--help"):
                name = argument[2:].partition("=")[0].replace("-", "_")
                check_name(name if name in names else name.removeprefix("no_"), names, "command line")
        if recipe is not None:
            argv = [*read_recipe(recipe, names), *argv[1:]]
        unset = argparse.Namespace(**dict.fromkeys(names))
        given = {name: value for name, value in vars(parser.parse_args(argv, unset)).items() if value is not None}
        network, data, run = (
            {field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given}
            for kind in parser.dataclass_types
        )
        settings = Settings(
            _as_the_config_has_them(network), DataArguments(**data), RunArguments(**run), frozenset(given), recipe
        )
        if not settings.run.model:  # else the saved model is checked with them
            DeepSpeech2Config(**settings.network)
    except (UserError, StrictDataclassError) as error:
        parser.error(str(error))
    return settings


def _network_field(name: str) -> tuple[str, type, Any]:
    """A field of `DeepSpeech2Config` in a form that fits a command line."""
    declared = DeepSpeech2Config.__dataclass_fields__[name]
    default, kind = declared.default, DeepSpeech2Config.__annotations__[name]
    if name in _PAIRS:
        default, kind = ["x".join(map(str, pair)) for pair in default], list[str]
    elif name == "conv_channels":
        default, kind = list(default), list[int]
    elif kind == float | int:
        kind = float
    metadata = {"help": declared.metadata["help"].replace("%", "%%")}
    if isinstance(default, list):
        return name, kind, field(default_factory=lambda: default, metadata=metadata)
    return name, kind, field(default=default, metadata=metadata)


_NetworkFields = dataclasses.make_dataclass(
    "_NetworkFields",
    [_network_field(name) for name in DeepSpeech2Config.own_fields() if name not in _FOLLOW_FROM_OTHERS],
)


def _as_the_config_has_them(network: dict[str, Any]) -> dict[str, Any]:
    for name, value in network.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}: found {value}, expected a finite number.")
    return {name: [_pair(name, pair) for pair in value] if name in _PAIRS else value for name, value in network.items()}


def _pair(name: str, text: str) -> list[int]:
    """41x11 -> [41, 11]"""
    numbers = text.split("x")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise UserError(f"{name}: found {text!r}, expected FREQUENCYxTIME, such as 41x11.")
    return [int(number) for number in numbers]


def command_line() -> str:
    """The command that started this process."""
    name = Path(sys.argv[0]).name
    return shlex.join([*([] if name == "deepspeech2" else ["accelerate", "launch"]), name, *sys.argv[1:]])


def how_to_continue(settings: Settings) -> str:
    """The end of a message; empty where there is nothing to continue."""
    if settings.run.eval_only or not Path(settings.run.output_dir, MARKER).exists():
        return ""
    return f"; continue with: {command_line()}{'' if settings.run.resume else ' --resume'}"
