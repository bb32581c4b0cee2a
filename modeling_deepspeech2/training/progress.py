"""The progress of a training: its position, its measurements, and what it has left out."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from accelerate.utils import gather_object
from tqdm.auto import tqdm


@dataclass
class Progress:
    """Saved and restored with every checkpoint."""

    start: str = "scratch"  # what the weights were at first
    parts: int = 1  # batches that make a step, on all processes together
    plan: str = ""  # fingerprint of the order of the data
    epoch: int = 0
    epoch_step: int = 0  # of the epoch's plan
    step: int = 0
    saved_step: int = -1  # of the newest checkpoint
    train_seconds: float = 0.0
    best_cer: float | None = None
    best_step: int | None = None  # whose weights are in checkpoints/best-…
    stale: int = 0  # validations since the best one
    bad_steps: int = 0  # steps without a finite gradient since the last good one
    losses: list[dict[str, Any]] = field(default_factory=list)  # one row for every `logging_steps` steps
    validations: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # utterance -> reason, of all processes
    unknown: Counter[str] = field(default_factory=Counter)  # character -> how often dropped in the first epoch
    steps_left_out: dict[str, list[str]] = field(default_factory=dict)  # those without a finite gradient -> utterances

    def state(self) -> dict[str, Any]:
        """In a form that JSON keeps."""
        return dict(vars(self))

    @classmethod
    def knows(cls, state: dict[str, Any]) -> bool:
        """Whether a saved state is that of this version: fields that are missing have their defaults, none is new."""
        return {"step", "unknown"} <= state.keys() <= {one.name for one in fields(cls)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        return cls(**state | {"unknown": Counter(state["unknown"])})

    def left_out(self) -> str:
        """For the card and for messages."""
        parts = []
        if self.skipped:
            parts.append(f"{len(self.skipped)} utterances, listed with their reasons in `skipped.json`")
        if self.steps_left_out:
            parts.append(f"{len(self.steps_left_out)} steps without a finite gradient, in `skipped.json` too")
        return "; ".join(parts) or "nothing"

    def reasons(self, number: int = 3) -> str:
        """The first few utterances left out."""
        return "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:number])


@dataclass
class Omissions:
    """What this process has left out since the processes last exchanged it."""

    skipped: dict[str, str] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)

    def note(self, progress: Progress, micro_batches: list[dict]) -> None:
        """Names what was left out, once for each utterance, and counts it for the run's report."""
        for batch in micro_batches:
            for name, reason in batch["skipped"]:
                if name not in progress.skipped and name not in self.skipped:
                    tqdm.write(f"left out: {name}: {reason}")
                self.skipped[name] = reason
            if progress.epoch == 0:
                self.unknown.update(batch["unknown_characters"])

    def gather(self, progress: Progress) -> None:
        """Adds what all processes have left out to the run's progress."""
        for skipped, unknown in gather_object([(self.skipped, self.unknown)]):
            progress.skipped.update(skipped)
            progress.unknown.update(unknown)
        self.skipped, self.unknown = {}, Counter()
