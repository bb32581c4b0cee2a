"""Defines what is varied in the small trainings, what the paper found, and what is expected here."""

from dataclasses import dataclass, field


TEST, NOISY, WITH_LM = "english/test", "noisy test", "with language model"
MANDARIN_TEST = "mandarin/test"
LONG_UTTERANCES = "librispeech_clean5/validation"  # up to 17 s, of speakers that training never heard
_NEW = ("amazon_queen", "librispeech_clean5", "librispeech_dev_clean20", "speechocean762")
NEW_VOICES = [f"{name}/validation" for name in _NEW]
MEAN = "mean of the splits"
BY_CHARACTER = {MANDARIN_TEST, LONG_UTTERANCES}  # the error rate that is compared, where words say little
SEEDS = 3  # of every variant


@dataclass
class Claim:
    """One variant makes fewer errors than another, in the paper's words or figures."""

    sentence: str
    better: str
    worse: str
    better_on: str = TEST
    worse_on: str = TEST


@dataclass
class Finding:
    """Args:
    title: for people.
    paper: its figures, in a sentence.
    varied: what is, here.
    variants: name -> the fields of the recipe that are others; `recipe` and `program`, where these are others.
    claims: what should come of it.
    measured: the test sets.
    axis: what the variants are a scale of, where they are one; with the numbers in `scale`, or else their parameters.
    """

    title: str
    paper: str
    varied: str
    variants: dict[str, dict]
    claims: list[Claim]
    measured: tuple[str, ...] = (TEST,)
    axis: str | None = None
    scale: dict[str, float] = field(default_factory=dict)
    seeds: int = SEEDS


def _rising(variants: dict[str, dict], test: str = TEST) -> list[Claim]:
    names = list(variants)
    return [Claim(f"{more} are better than {less}", more, less, test, test) for less, more in zip(names, names[1:])]


_ONE_CONVOLUTION = {"conv_channels": [16], "conv_kernel_sizes": ["21x11"], "conv_strides": ["8x3"]}
_THREE_CONVOLUTIONS = {
    "conv_channels": [8, 16, 16], "conv_kernel_sizes": ["21x11", "11x7", "11x7"], "conv_strides": ["4x3", "2x1", "1x1"]
}  # fmt: skip
_NOISE = {"noise_share": 0.4}
_MANDARIN = {
    "train": ["mandarin/train"], "validation": ["mandarin/validation"], "test": [MANDARIN_TEST],
    "tokenizer": "tokenizer/mandarin_demo",
}  # fmt: skip
_BIGRAM = {"tokenizer": "tokenizer/english_bigram"}
_LAYERS = {1: {"num_hidden_layers": 1}, 3: {}, 5: {"num_hidden_layers": 5}}
# Shares of the training speech, and epochs that make the same number of steps of them.
_SHARES = {"6%": 80, "12%": 42, "25%": 20, "50%": 10, "100%": 5}
_MINUTES = {"english": 51.3, "mandarin": 42.8}

_STRIDE_CLAIMS = [
    Claim("characters lose from stride 2 to 4", "characters, stride 2", "characters, stride 4"),
    Claim("bigrams are better than characters at stride 4", "bigrams, stride 4", "characters, stride 4"),
]


def _one_dimensional(layers: int) -> dict:
    return {
        "conv_type": "1d", "conv_channels": [64] * layers, "conv_kernel_sizes": ["1x11", "1x7", "1x7"][:layers],
        "conv_strides": ["1x3", "1x1", "1x1"][:layers],
    }  # fmt: skip


def _strided(stride: int) -> dict:
    return {} if stride == 3 else {"conv_strides": [f"4x{stride}", "2x1"]}


def _part(language: str, share: str) -> dict:
    # No sorted epoch: it would be one of five here, and one of eighty there.
    common, epochs = (_MANDARIN if language == "mandarin" else {}) | {"sorta_grad": False}, _SHARES[share]
    if share == "100%":
        return common
    return common | {"train": [f"{language}/train[:{share}]"], "num_train_epochs": epochs, "eval_epochs": epochs}


def _depth() -> dict[str, dict]:
    return {
        f"{layers} × GRU, {'BatchNorm' if norm else 'no BatchNorm'}{'' if sorted_ else ', no SortaGrad'}": settings
        | ({} if norm else {"batch_norm": "off"})
        | ({} if sorted_ else {"sorta_grad": False})
        for layers, settings in _LAYERS.items()
        for norm in (True, False)
        for sorted_ in (True, False)
    }


_DEPTH, _CONVOLUTIONS = _depth(), {
    f"{kind} × {layers}": settings | _NOISE
    for kind, of_kind in (
        ("1-d", {layers: _one_dimensional(layers) for layers in (1, 2, 3)}),
        ("2-d", {1: _ONE_CONVOLUTION, 2: {}, 3: _THREE_CONVOLUTIONS}),
    )
    for layers, settings in of_kind.items()
}  # fmt: skip
_LONGER = {"num_train_epochs": 20, "eval_epochs": 20}
_UNSORTED = {"sorta_grad": False}
_PORT = {"program": "benchmarks.usual_port"} | _UNSORTED
_PORT_EPOCHS = 11  # that it makes in the time of 20 of this package
_LONG_UTTERANCES = _LONGER | {
    "dataset": "../shared/data/speech-en", "train": ["librispeech_clean5/train[:10%]"],
    "validation": [LONG_UTTERANCES], "test": [LONG_UTTERANCES],
    "rnn_type": "rnn", "hidden_act": "clipped_relu", "hidden_size": 118, "batch_norm": "off",
}  # fmt: skip
_ENGLISH = {
    "recipe": "recipes/english.yaml", "model": "checkpoints/deepspeech2-english", "test": NEW_VOICES, "sorta_grad": False,
    "max_steps": 300, "eval_epochs": 60, "learning_rate": 6e-4, "warmup_steps": 30, "mixed_precision": "bf16",
}  # fmt: skip
_AUGMENTATIONS = {
    "speed perturbation": "speed_perturbation", "gain": "gain", "noise": "noise_share", "telephone coding": "codec_share",
    "silence around": "silence_share", "SpecAugment": "spec_augment",
}  # fmt: skip
_MORE_AUGMENTATIONS = {"echoes of rooms": "room_share", "pairs of clips": "join_share"}
_WIDTHS = {f"{width} units": {} if width == 64 else {"hidden_size": width} for width in (32, 64, 96, 128)}


def _hours(language: str, test: str) -> Finding:
    variants = {share: _part(language, share) for share in _SHARES}
    return Finding(
        f"Error against hours, {language.capitalize()}",
        "English only (no such table for Mandarin), 120, 1,200, 2,400, 6,000 and 12,000 h: 29.23, 13.80, 11.65, 9.51 "
        "and 8.46 % WER, about 40 % less for ten times the data.",
        f"About 6 to 100 % of {_MINUTES[language]:.0f} minutes of training speech, drawn by a hash; about the same number "
        "of steps for each, in random order.",
        variants,
        _rising(variants, test),
        (test,),
        "minutes of training speech",
        {share: _MINUTES[language] * int(share[:-1]) / 100 for share in _SHARES},
    )


FINDINGS = {
    "depth": Finding(
        "Batch normalisation, depth and SortaGrad",
        "Dev WER of RNNs without → with BatchNorm: 1 layer 13.55 → 14.40, 3 layers 11.61 → 10.56, 5 layers 10.77 → 9.78, "
        "7 layers 10.83 → 9.52 %; 7 layers without SortaGrad 11.96 → 9.78 %.",
        "1, 3 and 5 recurrent layers of 64 GRUs (the paper's are plain, with as many parameters at every depth); BatchNorm "
        "in all layers, convolutions included, or in none; the first epoch sorted or not.",
        _DEPTH,
        [
            *(
                Claim(f"BatchNorm helps {layers} layers", f"{layers} × GRU, BatchNorm", f"{layers} × GRU, no BatchNorm")
                for layers in (3, 5)
            ),
            Claim("3 layers are better than 1", "3 × GRU, BatchNorm", "1 × GRU, BatchNorm"),
            Claim("5 layers are better than 3", "5 × GRU, BatchNorm", "3 × GRU, BatchNorm"),
            *(
                Claim(f"SortaGrad helps 5 layers with {norm}", f"5 × GRU, {norm}", f"5 × GRU, {norm}, no SortaGrad")
                for norm in ("BatchNorm", "no BatchNorm")
            ),
        ],
    ),
    "units": Finding(
        "Plain, GRU and LSTM units",
        "Dev WER of RNNs and GRUs of as many parameters, with BatchNorm: 14.40 and 10.53 % (1 layer), 10.56 and 8.00 % (3).",
        "Three layers of about 180,000 parameters in all: 118 clipped ReLU units, 64 GRU units, 54 LSTM units.",
        {
            "RNN": {"rnn_type": "rnn", "hidden_act": "clipped_relu", "hidden_size": 118},
            "GRU": {},
            "LSTM": {"rnn_type": "lstm", "hidden_size": 54},
        },
        [Claim("GRU is better than RNN", "GRU", "RNN"), Claim("LSTM is better than RNN", "LSTM", "RNN")],
    ),
    "convolutions": Finding(
        "Convolutions over time, or over time and frequency",
        "Dev WER regular/noisy: 1-d × 1 9.52/19.36, × 2 9.67/19.21, × 3 9.20/20.22; 2-d × 1 8.94/16.22, × 2 9.06/15.71, "
        "× 3 8.61/14.74 %.",
        "One to three convolutions of either kind (1-d: 64 channels); all trained with noise in 40 % of the utterances, and "
        "measured on the clean test clips and on the same with such noise.",
        _CONVOLUTIONS,
        [
            *(
                Claim(f"2-d × {n} is better than 1-d × {n}{where}", f"2-d × {n}", f"1-d × {n}", test, test)
                for n in (1, 2, 3)
                for test, where in ((TEST, ""), (NOISY, " in noise"))
            ),
            Claim("2-d × 3 is better than 2-d × 1 in noise", "2-d × 3", "2-d × 1", NOISY, NOISY),
        ],
        (TEST, NOISY),
    ),
    "stride": Finding(
        "Striding, with characters and with bigrams",
        "WER with characters/bigrams (and a language model): stride 2 9.52/9.66, 3 9.65/10.06, 4 11.92/9.93 %: characters "
        "lose at 4, bigrams do not.",
        "The stride in time of the first convolution, 20, 30 or 40 ms for each output frame, and the symbols.",
        {
            f"{unit}, stride {stride}": settings | _strided(stride)
            for unit, settings in (("characters", {}), ("bigrams", _BIGRAM))
            for stride in (2, 3, 4)
        },
        _STRIDE_CLAIMS,
    ),
    "direction": Finding(
        "Both directions, one, and one with row convolution",
        "A row convolution on top of unidirectional layers is what makes up for the missing direction, for live use.",
        "Three layers of 64 units; the row convolution sees 10 frames, 0.3 s, ahead.",
        {
            "bidirectional": {},
            "unidirectional + row convolution": {"bidirectional": False, "lookahead": 10},
            "unidirectional": {"bidirectional": False},
        },
        [
            Claim("both directions are better than one", "bidirectional", "unidirectional"),
            Claim("the row convolution helps one direction", "unidirectional + row convolution", "unidirectional"),
        ],
    ),
    "language_model": Finding(
        "What a language model adds",
        "Dev WER without → with: 1 recurrent layer 27.79 → 14.39, 7 layers 14.93 → 9.52 %.",
        "1, 3 and 5 layers; best path, or beam search with a word 5-gram of the training transcripts (α 0.5, β 1.5).",
        {f"{layers} layer{'s' * (layers > 1)}": settings for layers, settings in _LAYERS.items()},
        [Claim(f"it helps {name}", name, name, WITH_LM, TEST) for name in ("1 layer", "3 layers", "5 layers")],
        (TEST, WITH_LM),
    ),
    "hours_english": _hours("english", TEST),
    "hours_mandarin": _hours("mandarin", MANDARIN_TEST),
    "parameters": Finding(
        "Error against parameters",
        "Larger models are better, up to the 100 million parameters of its best English one.",
        "Three layers of 32 to 128 units.",
        _WIDTHS,
        _rising(_WIDTHS),
        (TEST,),
        "parameters",
    ),
    "long_utterances": Finding(
        "SortaGrad on long utterances, without BatchNorm, 20 epochs",
        "Dev WER of 7 plain layers without → with SortaGrad: 11.96 → 10.83 % without BatchNorm, 9.78 → 9.52 % with it.",
        "Real utterances of up to 17 s (a tenth of `librispeech_clean5/train`, half an hour), 5 or 7 layers of 118 clipped "
        "ReLU units without BatchNorm, 20 epochs; measured on its validation split, speakers that training never heard.",
        {
            f"{layers} × RNN{name}": _LONG_UTTERANCES | {"num_hidden_layers": layers} | order
            for layers in (5, 7)
            for name, order in (("", {}), (", no SortaGrad", _UNSORTED))
        },
        [
            Claim(f"SortaGrad helps {n} layers", f"{n} × RNN", f"{n} × RNN, no SortaGrad", LONG_UTTERANCES, LONG_UTTERANCES)
            for n in (5, 7)
        ],
        (LONG_UTTERANCES,),
    ),
    "stride_longer": Finding(
        "Striding, with characters and with bigrams, 20 epochs",
        "WER with characters/bigrams (and a language model): stride 2 9.52/9.66, 3 9.65/10.06, 4 11.92/9.93 %.",
        "The shortest and the longest of these strides, trained for 20 epochs.",
        {
            f"{unit}, stride {stride}": settings | _strided(stride) | _LONGER
            for unit, settings in (("characters", {}), ("bigrams", _BIGRAM))
            for stride in (2, 4)
        },
        _STRIDE_CLAIMS,
    ),
    "convolutions_longer": Finding(
        "Three convolutions, over time or over time and frequency, 20 epochs",
        "Dev WER regular/noisy: 1-d × 3 9.20/20.22, 2-d × 1 8.94/16.22, 2-d × 3 8.61/14.74 %.",
        "Three of these variants, trained for 20 epochs, with noise in 40 % of the utterances.",
        {name: _CONVOLUTIONS[name] | _LONGER for name in ("1-d × 3", "2-d × 1", "2-d × 3")},
        [
            Claim(f"2-d × 3 is better than {other}{where}", "2-d × 3", other, test, test)
            for other in ("1-d × 3", "2-d × 1")
            for test, where in ((TEST, ""), (NOISY, " in noise"))
        ],
        (TEST, NOISY),
    ),
    "usual_port": Finding(
        "The usual open-source port",
        "BatchNorm of the products W·x, over the frames that exist (section 3.2).",
        "The same network, data and one core with the layers of the usual port (BatchNorm of the layer's input, padding "
        "counted, packed `nn.GRU`, no SortaGrad), 20 epochs, or as many as it makes in the same time.",
        {
            "this package": _LONGER,
            "this package, no SortaGrad": _LONGER | _UNSORTED,
            "the usual port, as many epochs": _LONGER | _PORT,
            "the usual port, as much time": {"num_train_epochs": _PORT_EPOCHS, "eval_epochs": _PORT_EPOCHS} | _PORT,
        },
        [
            Claim(f"this package is better in as {much}", "this package, no SortaGrad", f"the usual port, as {much}")
            for much in ("many epochs", "much time")
        ],
    ),
    "augmentation": Finding(
        "What each augmentation of the English recipe does",
        "Noise is added to 40 % of the utterances (section 5.3).",
        "The English checkpoint of commit 191fcd6, trained on for 300 steps of 64 s (5.3 hours of speech) with all "
        "augmentations of `recipes/english.yaml`, with all but one, with one more, or with none; measured on the "
        "four validation splits. So short a run shows how soon a trained model adapts to easier clips, not what many "
        "epochs gain.",
        {"all": _ENGLISH}
        | {f"no {name}": _ENGLISH | {field: 0} for name, field in _AUGMENTATIONS.items()}
        | {"none": _ENGLISH | dict.fromkeys(_AUGMENTATIONS.values(), 0)}
        | {f"all and {name}": _ENGLISH | {field: 0.25} for name, field in _MORE_AUGMENTATIONS.items()},
        [
            Claim("all together help", "all", "none", MEAN, MEAN),
            *(Claim(f"{name} helps", "all", f"no {name}", MEAN, MEAN) for name in _AUGMENTATIONS),
            *(Claim(f"{name} would help", f"all and {name}", "all", MEAN, MEAN) for name in _MORE_AUGMENTATIONS),
        ],
        (*NEW_VOICES, MEAN),
        seeds=2,
    ),
}  # fmt: skip
