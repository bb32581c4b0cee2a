"""Brings the tests that transformers shares between all its models, those of the version that is installed.

They are no part of the installed package, but `tests/test_*.py` stand in its source distribution, which pip downloads.
They go into `.cache/transformers-<version>/` at the root of the repository, where git does not see them, together with
stand-ins for what they import and the source distribution leaves out.

    python tests/transformers_common/fetch.py
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


FOLDER = Path(__file__).parents[2] / ".cache" / f"transformers-{transformers.__version__}"

# In transformers' repository the files are a package with neighbours, which the source distribution has not:
# `exporters` and `generation` hold further tests, which are not run here; a script in `utils` caches files of the Hub,
# which no test of ours needs; `test_configuration_utils` has a value for each field common to all configurations.
STAND_INS = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "../utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "architectures": ["Any"],
    "chunk_size_feed_forward": 3,
    "dtype": "float16",
    "id2label": {0: "yes", 1: "no", 2: "perhaps"},
    "is_encoder_decoder": True,
    "label2id": {"yes": 0, "no": 1, "perhaps": 2},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}
""",
    "fixtures/sample_text.txt": "The quick brown fox jumps over the lazy dog.\nIt doesn't mind at all.\n",
}


class NotFetchedError(RuntimeError):
    """The source distribution cannot be had; the message says why."""


def fetch() -> Path:
    """The folder whose `tests/` holds the common tests, downloaded where it is not there yet.

    Raises:
        NotFetchedError: pip gives no source distribution of this version: no network, or no pip.
    """
    if FOLDER.exists():
        return FOLDER
    write(FOLDER.parent / ".gitignore", b"*\n")
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as folder:
        name = f"transformers=={transformers.__version__}"
        command = [sys.executable, "-m", "pip", "download", name, "--no-deps", "--no-binary", "transformers"]
        command += ["--quiet", "--retries", "1", "--timeout", "20", "--dest", folder]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.tar.gz"))
        if process.returncode or not archives:
            reason = (process.stderr.strip() or "it brought no .tar.gz").splitlines()[-1]
            raise NotFetchedError(f"pip did not download the source distribution of {name}: {reason}")
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                parts = Path(member.name).parts
                if member.isfile() and parts[1:2] == ("tests",) and ".." not in parts:
                    write(unpacked.joinpath(*parts[1:]), archive.extractfile(member).read())
        for name, content in STAND_INS.items():
            write(unpacked / "tests" / name, content.encode())
        try:
            os.replace(unpacked, FOLDER)
        except OSError:  # another process was faster
            if not FOLDER.exists():
                raise
    return FOLDER


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    try:
        print(fetch())
    except NotFetchedError as error:
        sys.exit(str(error))
