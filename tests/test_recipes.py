"""Every recipe can be read, and those for data sets on the Hub name splits and columns that those data sets have."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.training.arguments import parse_arguments


FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted([*FOLDER.glob("*.yaml"), *(FOLDER / "untested").glob("*.yaml")])

# Configurations with their splits, and columns, as the data sets' cards on the Hub list them.
SCHEMAS = {
    "openslr/librispeech_asr": (
        {"clean": ["train.100", "train.360", "validation", "test"], "other": ["train.500", "validation", "test"]},
        ["file", "audio", "text", "speaker_id", "chapter_id", "id"],
    ),
    "fixie-ai/common_voice_17_0": (
        {language: ["train", "validation", "test", "other", "invalidated"] for language in ("en", "zh-CN")},
        ["client_id", "path", "audio", "sentence", "up_votes", "down_votes", "age", "gender", "accent", "locale", "segment"],
    ),
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_read(recipe):
    network, data, training, *_ = parse_arguments([str(recipe)], "")
    DeepSpeech2Config(**network)
    assert training.output_dir == f"runs/{recipe.stem}"
    assert not set(data.test) & set(data.train) and not set(data.test) & set(data.validation)


def test_the_accelerate_config_is_one():
    """And it shards the layers of our own model."""
    config = load_config_from_file(str(FOLDER / "accelerate" / "fsdp.yaml"))
    assert config.distributed_type == "FSDP"
    assert [config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"]] == DeepSpeech2ForCTC._no_split_modules


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_splits_and_columns_are_those_of_the_data_set(recipe, tmp_path):
    data = parse_arguments([str(recipe)], "").data
    if data.dataset not in SCHEMAS:
        pytest.skip("not a data set on the Hub")
    configurations, columns = SCHEMAS[data.dataset]
    row = {column: ["x"] for column in columns} | {"audio": [{"bytes": b"x", "path": None}]}
    card = []
    for configuration, splits in configurations.items():
        (tmp_path / configuration).mkdir()
        files = []
        for split in splits:
            pyarrow.parquet.write_table(pyarrow.table(row), tmp_path / configuration / f"{split}-00000-of-00001.parquet")
            files.append({"split": split, "path": f"{configuration}/{split}-*.parquet"})
        card.append({"config_name": configuration, "data_files": files})
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': card})}---\n")
    for splits in (data.train, data.validation, data.test):
        assert len(SpeechData(str(tmp_path), splits, data.audio_column, data.text_column).sources) == len(splits)
