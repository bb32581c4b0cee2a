"""The code that travels with a model: the modules that `trust_remote_code` needs where this package is not installed.

They are the entry points below and what these import, which is all that stands flat in the package.
"""

import json
import re
import shutil
from pathlib import Path


PACKAGE = Path(__file__).parent
PIPELINE = {
    "impl": "pipeline_deepspeech2.DeepSpeech2Pipeline",
    "pt": ["AutoModelForCTC"],
    "type": "multimodal",
}
# What the files of a repository say of the code beside them, by file.
ENTRIES: dict[str, dict] = {
    "config.json": {
        "auto_map": {
            "AutoConfig": "configuration_deepspeech2.DeepSpeech2Config",
            "AutoModel": "modeling_deepspeech2.DeepSpeech2Model",
            "AutoModelForCTC": "modeling_deepspeech2.DeepSpeech2ForCTC",
        },
        "custom_pipelines": {"automatic-speech-recognition": PIPELINE},
    },
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["tokenization_deepspeech2.DeepSpeech2CTCTokenizer", None]},
    },
    "processor_config.json": {
        "auto_map": {
            "AutoProcessor": "processing_deepspeech2.DeepSpeech2Processor",
            "AutoFeatureExtractor": "feature_extraction_deepspeech2.DeepSpeech2FeatureExtractor",
        },
    },
}
ENTRY_POINTS = (
    "configuration_deepspeech2",
    "modeling_deepspeech2",
    "tokenization_deepspeech2",
    "feature_extraction_deepspeech2",
    "processing_deepspeech2",
    "pipeline_deepspeech2",
)
_IMPORT = re.compile(r"^[ \t]*from \.(\w+) import", re.MULTILINE)


def modules() -> list[Path]:
    """The files of the entry points and of all that they import, by name."""
    found: set[str] = set()
    waiting = list(ENTRY_POINTS)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _IMPORT.findall((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    return [PACKAGE / f"{name}.py" for name in sorted(found)]


def write_remote_code(folder: Path) -> None:
    """Makes a saved model or processor load with `trust_remote_code`: the modules, and the entries that name them."""
    for name, entries in ENTRIES.items():
        file = folder / name
        if not file.is_file():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        if name == "processor_config.json":
            content["feature_extractor"]["auto_map"] = entries["auto_map"]
        file.write_text(json.dumps(content | entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for module in modules():
        if module.resolve() != (folder / module.name).resolve():
            shutil.copyfile(module, folder / module.name)
