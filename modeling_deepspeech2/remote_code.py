"""The code that is saved with a model: the modules that `trust_remote_code` needs where this package is not installed.

Every way of saving uses it: models, processors, their parts and pipelines are decorated with `travels_with_code`.
"""

import filecmp
import functools
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    # The entry points, which never run here. `trust_remote_code` copies a module together with all that it names, so that
    # whichever entry point is loaded brings every module along, and a model loaded in this way can be saved again.
    from .configuration_deepspeech2 import DeepSpeech2Config  # noqa: F401
    from .feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor  # noqa: F401
    from .modeling_deepspeech2 import DeepSpeech2ForCTC  # noqa: F401
    from .pipeline_deepspeech2 import DeepSpeech2Pipeline  # noqa: F401
    from .processing_deepspeech2 import DeepSpeech2Processor  # noqa: F401
    from .tokenization_deepspeech2 import DeepSpeech2CTCTokenizer  # noqa: F401


PACKAGE = Path(__file__).parent
PIPELINE = {
    "impl": "pipeline_deepspeech2.DeepSpeech2Pipeline",
    "pt": ["AutoModelForCTC"],
    "type": "multimodal",
}
PROCESSOR = {
    "AutoProcessor": "processing_deepspeech2.DeepSpeech2Processor",
    "AutoFeatureExtractor": "feature_extraction_deepspeech2.DeepSpeech2FeatureExtractor",
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
    "processor_config.json": {"auto_map": PROCESSOR},
    "preprocessor_config.json": {"auto_map": PROCESSOR},  # of a feature extractor that is saved by itself
}
_IMPORT = re.compile(r"^[ \t]*from \.(\w+) import", re.MULTILINE)


def travels_with_code(cls: type) -> type:
    """Class decorator: `save_pretrained` into the folder of a model, and every push to the Hub, bring the code along."""
    save, upload = cls.save_pretrained, cls._upload_modified_files

    @functools.wraps(save)
    def save_pretrained(self: Any, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        saved = save(self, save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and (Path(save_directory) / "config.json").is_file():
            write_remote_code(Path(save_directory))
        return saved

    @functools.wraps(upload)
    def _upload_modified_files(self: Any, working_dir: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        write_remote_code(Path(working_dir))
        return upload(self, working_dir, *args, **kwargs)

    cls.save_pretrained, cls._upload_modified_files = save_pretrained, _upload_modified_files
    return cls


def modules() -> list[Path]:
    """The files of this module and of all that it names, by name: everything that stands flat in the package."""
    found: set[str] = set()
    waiting = [Path(__file__).stem]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _IMPORT.findall((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    return [PACKAGE / f"{name}.py" for name in sorted(found)]


def write_remote_code(folder: Path) -> None:
    """Makes what is saved in `folder` load with `trust_remote_code`: the modules, and the entries that name them."""
    for name, entries in ENTRIES.items():
        file = folder / name
        if not file.is_file():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        if "feature_extractor" in content:
            content["feature_extractor"]["auto_map"] = entries["auto_map"]
        part = file.with_suffix(".part")
        part.write_text(json.dumps(content | entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(file)
    for module in modules():
        copy = folder / module.name
        if not copy.exists() or not filecmp.cmp(module, copy, shallow=False):
            shutil.copyfile(module, copy)
