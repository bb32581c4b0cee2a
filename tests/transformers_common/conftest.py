"""Runs transformers' own common tests, which `fetch.py` brings, on our classes.

Theirs are a package called `tests`, as our own folder is: it is imported from its path. Where it cannot be had, the
whole folder is skipped. What else is skipped, and why, stands in `skips.py`.
"""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from fetch import NotFetchedError, fetch
from skips import SKIPS
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES, MODEL_MAPPING_NAMES


HERE = Path(__file__).parent
THEIR_MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "slow", "torch_compile_test",
)  # fmt: skip

# Without Pillow they skip every test of a processor in silence, without parameterized they cannot be imported.
for module, package in {"PIL": "pillow", "parameterized": "parameterized"}.items():
    if importlib.util.find_spec(module) is None:
        raise RuntimeError(f"transformers' common tests need {package}: pip install {package}")

try:
    SOURCE, ABSENT = fetch(), None
except NotFetchedError as error:
    SOURCE, ABSENT = None, f"transformers' common tests are not here: {error}"


def import_their_tests(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        # Our own folder comes second, so that other tests can still import from it by the same name.
        "tests", folder / "__init__.py", submodule_search_locations=[str(folder), str(HERE.parent)],
    )  # fmt: skip
    sys.modules["tests"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["tests"])


if SOURCE is not None:
    import_their_tests(SOURCE / "tests")


class AbsentModule(pytest.Module):
    def collect(self):
        pytest.skip(ABSENT, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return AbsentModule.from_parent(parent, path=module_path) if ABSENT else None


def pytest_configure(config: pytest.Config) -> None:
    for mark in THEIR_MARKS:
        config.addinivalue_line("markers", f"{mark}: one of transformers' own tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.name in SKIPS:
            item.add_marker(pytest.mark.skip(reason=SKIPS[item.name]))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that threads only wait for each other: six times as long on two busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tests ask these tables of names what a model is for; registering does not enter a model there."""
    monkeypatch.setitem(MODEL_MAPPING_NAMES, "deepspeech2", "DeepSpeech2Model")
    monkeypatch.setitem(MODEL_FOR_CTC_MAPPING_NAMES, "deepspeech2", "DeepSpeech2ForCTC")
