"""A training with everything that it needs, which the functions of `run_ctc.py` pass on."""

import contextlib
import logging
import math
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock

from ..data.augmentation import Augmentation
from ..data.batching import Batching, EpochPlan
from ..data.sources import SpeechData
from ..data.utterance_file import UtteranceFile, folder_of_copies, is_worth_a_copy, write_utterances
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from .arguments import Settings
from .interruption import Interruption
from .progress import Omissions, Progress


logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Made by [`prepare`], once everything has been checked that the run will need to its end."""

    settings: Settings
    accelerator: Accelerator
    interruption: Interruption
    lock: FileLock | None  # of the output folder, on the main process
    model: DeepSpeech2ForCTC
    processor: DeepSpeech2Processor
    train_data: SpeechData
    validation: SpeechData
    tests: dict[str, SpeechData]
    batching: Batching
    augmentation: Augmentation
    progress: Progress
    checkpoint: Path | None  # to continue from
    record: dict[str, Any]  # see `run_record`
    omissions: Omissions = field(default_factory=Omissions)

    def __str__(self) -> str:
        """A description of the run for people."""
        arguments, index, accelerator = self.settings.run, self.train_data.index, self.accelerator
        later = self.batching.plan(index, 1)
        return (
            f"{len(index):,} utterances, {index.hours:.2f} h; {self.model.num_parameters():,} parameters; "
            f"{arguments.num_train_epochs} epochs of {later.steps} steps on "
            f"{accelerator.num_processes} × {accelerator.device}"
        )

    def epoch_data(self, plan: EpochPlan) -> SpeechData | UtteranceFile:
        """What the utterances of this epoch are read from; all processes must call it.

        In the order of their length, every reader would read the whole data once for each window of the plan. Where that
        is too often, one process of each machine copies the data into a file from which all read just their own. It has no
        name any more when this returns, and is gone with the processes.
        """
        if not (self.batching.is_sorted(self.progress.epoch) and is_worth_a_copy(plan, self.readers)):
            return self.train_data
        (name,) = broadcast_object_list([f"{uuid.uuid4().hex}.arrow"])
        file = folder_of_copies() / name
        with self.interruption.deferred(False), self.accelerator.local_main_process_first():
            if self.accelerator.is_local_main_process and not file.exists():  # it exists where machines share their disk
                self._copy_data(file)
            data = UtteranceFile(self.train_data.index, file) if file.exists() else self.train_data
        self.accelerator.wait_for_everyone()
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        return data

    def _copy_data(self, file: Path) -> None:
        try:
            write_utterances(self.train_data, file)
        except OSError as error:
            memory = self.settings.run.shuffle_memory
            logger.warning(
                f"The data cannot be copied to {file.parent} ({error}): in the first epoch, from short to long, each of "
                f"{self.readers} processes reads it once for every {memory / 2:g} MB (shuffle_memory)."
            )

    @property
    def output(self) -> Path:
        return Path(self.settings.run.output_dir)

    @property
    def readers(self) -> int:
        """Processes that read different batches: those that share a model read the same ones."""
        return self.accelerator.num_processes // self.settings.run.tensor_parallel_size

    @property
    def reader(self) -> int:
        """Which of them this process is."""
        return self.accelerator.process_index // self.settings.run.tensor_parallel_size

    @property
    def total_steps(self) -> int:
        first, later = (self.batching.plan(self.train_data.index, epoch).steps for epoch in (0, 1))
        steps = first + later * (self.settings.run.num_train_epochs - 1)
        return min(steps, self.settings.run.max_steps or steps)

    @property
    def is_over(self) -> bool:
        arguments, progress = self.settings.run, self.progress
        has_stalled = bool(arguments.patience) and progress.stale >= arguments.patience
        last_step = arguments.max_steps or math.inf
        return has_stalled or progress.epoch >= arguments.num_train_epochs or progress.step >= last_step

    @property
    def must_stop(self) -> bool:
        """A signal has been received, or data cannot be read; among several processes, once all know it."""
        stop = self.interruption
        return stop.is_agreed if self.accelerator.num_processes > 1 else stop.is_requested

    @property
    def validation_is_due(self) -> bool:
        """After this step, which was not measured yet."""
        arguments, progress = self.settings.run, self.progress
        if progress.step == 0 or (progress.validations and progress.validations[-1]["step"] == progress.step):
            return False
        if self.is_over or arguments.eval_steps:
            return self.is_over or progress.step % arguments.eval_steps == 0
        return progress.epoch_step == 0 and progress.epoch % arguments.eval_epochs == 0
