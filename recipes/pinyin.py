"""Writes a copy of Mandarin speech whose transcripts are in pinyin, syllable by syllable: 请打开 -> qing da kai.

    pip install pypinyin==0.55.0
    python recipes/pinyin.py ../shared/data/speech-zh runs/speech-zh-pinyin

A network that has learned to write syllables in 26 letters needs few epochs to learn thousands of characters; from the
beginning, with a few hours of speech, it writes nothing for long. `recipes/mandarin_pinyin.yaml` is the first step and
`recipes/mandarin.yaml` the second. Tones are left out; what is no Chinese character stays as it is. Test splits are not
copied.
"""

import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import yaml
from pypinyin import lazy_pinyin
from tqdm import tqdm


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    shards = [file for file in sorted(source.glob("*/*.parquet")) if not file.name.startswith("test")]
    if not shards:
        sys.exit(f"There is no */*.parquet in {source}.")
    for shard in tqdm(shards, "pinyin", unit=" shards"):
        table = pyarrow.parquet.read_table(shard)
        texts = [" ".join(lazy_pinyin(text)).replace("ü", "v") for text in table["text"].to_pylist()]
        table = table.set_column(table.schema.get_field_index("text"), "text", pyarrow.array(texts))
        (target / shard.parent.name).mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, target / shard.parent.name / shard.name)
    splits = sorted({(shard.parent.name, shard.name.split("-")[0]) for shard in shards})
    configs = [
        {"config_name": name, "data_files": [{"split": s, "path": f"{n}/{s}-*.parquet"} for n, s in splits if n == name]}
        for name in sorted({name for name, _ in splits})
    ]
    (target / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n", encoding="utf-8")


if __name__ == "__main__":
    main()
