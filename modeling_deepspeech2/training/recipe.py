"""Recipes: YAML files of `field: value` lines, read as command-line arguments."""

import difflib
from collections.abc import Collection
from pathlib import Path

import yaml

from ..errors import UserError


_NULL = "tag:yaml.org,2002:null"


def read_recipe(file: Path, fields: Collection[str]) -> list[str]:
    """The fields of a recipe as `--field=value`, in its own spelling of the values; `null` leaves a field at its default.

    Args:
        fields: the names that may occur.

    Raises:
        UserError: no such file, no text, broken YAML, an unknown or repeated field; the message has file and line.
    """
    if not file.is_file():
        raise UserError(f"there is no recipe {file}")
    arguments: list[str] = []
    seen: dict[str, int] = {}
    for key, value in _lines(file):
        name, line = key.value, key.start_mark.line + 1
        place = f"{file}, line {line}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{place}: expected a field's name before the colon")
        check_name(name, fields, place)
        if name in seen:
            raise UserError(f"{place}: {name} was set in line {seen[name]} already; keep one of the two")
        seen[name] = line
        arguments += _arguments(name, value, place)
    return arguments


def check_name(name: str, fields: Collection[str], place: str) -> None:
    """
    Raises:
        UserError: no field is called so; the message names the place, and the field that was meant, if one is similar.
    """
    if name in RENAMED:
        raise UserError(f"{place}: {name} is now called {RENAMED[name]}")
    if name not in fields:
        similar = difflib.get_close_matches(name, fields, 1)
        raise UserError(f"{place}: there is no field {name}" + (f"; did you mean {similar[0]}?" if similar else ""))


# Fields that have taken the names of `transformers.TrainingArguments`.
RENAMED = {
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "num_epochs": "num_train_epochs",
    "lr_schedule": "lr_scheduler_type",
    "keep": "save_total_limit",
    "num_workers": "dataloader_num_workers",
    "optimizer": "optim",
}


def _lines(file: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a text file in UTF-8 (found byte {error.object[error.start]:#x})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{file}, line {mark.line + 1 if mark else 1}: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(f"{file}, line {line}: found the character {error.character:#x}, which is not text") from error
    except RecursionError as error:
        raise UserError(f"{file}: brackets are nested too deeply; expected 'field: value' lines") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{file}, line {root.start_mark.line + 1}: expected 'field: value' lines")
    return root.value


def _arguments(name: str, value: yaml.Node, place: str) -> list[str]:
    if isinstance(value, yaml.ScalarNode):
        return [] if value.tag == _NULL else [f"--{name}={value.value}"]
    items = value.value if isinstance(value, yaml.SequenceNode) else [value]
    if not all(isinstance(item, yaml.ScalarNode) and item.tag != _NULL for item in items):
        raise UserError(f"{place}: {name} must be a value or a list of values such as [first, second]")
    return [f"--{name}", *(item.value for item in items)] if items else []
