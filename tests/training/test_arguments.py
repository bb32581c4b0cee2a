"""Recipes and fields: what is wrong with them is said in one sentence, with file and line, before any work."""

import dataclasses
import re

import pytest

from modeling_deepspeech2.training.arguments import DataArguments, RunArguments, parse_arguments
from modeling_deepspeech2.training.recipe import RENAMED


def refused(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit):
        parse_arguments(arguments, "")
    [sentence] = re.findall(r"error: (.*)", capsys.readouterr().err)
    return sentence


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"dataset: [a", "recipe.yaml, line 1: expected ',' or ']'"),
        (b"dataset: a\n  b: c", "recipe.yaml, line 2: mapping values are not allowed here"),
        (b"- dataset\n- train", "recipe.yaml, line 1: expected 'field: value' lines"),
        (b"just words", "recipe.yaml, line 1: expected 'field: value' lines"),
        (b"\x00\x01\x02", "recipe.yaml, line 1: found the character 0x0"),
        (b"\x89PNG\r\n\x1a\n", "recipe.yaml is not a text file in UTF-8 (found byte 0x89)"),
        ("dataset: a".encode("utf-16"), "recipe.yaml is not a text file in UTF-8"),
        ("dataset: a".encode("utf-16-le"), "recipe.yaml, line 1: found the character 0x0"),
        (b"dataset: a\nseed: 1\nseed: 2", "recipe.yaml, line 3: seed was set in line 2 already"),
        (b"dataset: a\n\nhiden_size: 2", "recipe.yaml, line 3: there is no field hiden_size; did you mean hidden_size?"),
        (b"dataset: a\nbatch_size: 2", "recipe.yaml, line 2: batch_size is now called per_device_train_batch_size"),
        (b"dataset: {a: b}", "recipe.yaml, line 1: dataset must be a value or a list of values"),
        (b"dataset: a\ntrain: [[a], b]", "recipe.yaml, line 2: train must be a value or a list of values"),
        (b"dataset: a\ntrain: [a, null]", "recipe.yaml, line 2: train must be a value or a list of values"),
        (b"? [a]\n: b", "recipe.yaml, line 1: expected a field's name"),
        (b"dataset: a\n---\nseed: 1", "recipe.yaml, line 2: but found another document"),
        (b"[" * 5_000, "recipe.yaml"),
        (b"dataset: a\nmomentum: .nan", "momentum"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_sentence(content, expected, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_bytes(content)
    assert expected in refused([str(tmp_path / "recipe.yaml")], capsys)


def test_null_means_the_default_and_words_are_what_they_look_like(tmp_path):
    """YAML would make a missing value the text "None", `off` a boolean, 1:30 ninety, and 010 an eight."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(
        b"\xef\xbb\xbfdataset: 010\nmodel: null\nnoise: ~\nmax_steps:\nmixed_precision: no\nbatch_norm: off\n"
        b"sorta_grad: no\ntext_column: 1:30\ntrain: []\nlearning_rate: 1e-3\n"
    )
    network, data, run, given, file = parse_arguments([str(recipe)], "")
    assert (run.model, run.noise, run.max_steps, run.mixed_precision, run.sorta_grad) == (None, None, None, "no", False)
    assert (network, data.dataset, data.text_column, data.train) == ({"batch_norm": "off"}, "010", "1:30", ["train"])
    assert run.learning_rate == 1e-3 and "model" not in given and file == recipe


NUMBERS = [
    field.name for kind in (DataArguments, RunArguments) for field in dataclasses.fields(kind)
    if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
]  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_no_number_is_nan_infinite_or_negative(name, value, capsys):
    sentence = refused(["--dataset=a", f"--{name}={value}"], capsys)
    assert name in sentence and value in sentence


@pytest.mark.parametrize("old, new", RENAMED.items())
def test_old_names_are_refused_with_the_new_one(old, new, capsys):
    assert f"{old} is now called {new}" in refused(["--dataset=a", f"--{old}=1"], capsys)
    assert new in {field.name for field in dataclasses.fields(RunArguments)}


def test_the_help_says_what_every_field_is_for(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"], "")
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    for text in ("--rnn_type", "Unit of the recurrent layers", "--report_to", "(default: 20)"):
        assert text in printed
