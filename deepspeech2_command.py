"""Starts the command `deepspeech2`.

It stands outside the package because importing the package imports torch and transformers, which takes seconds:
`deepspeech2 --help` and a mistyped option should be answered at once.
"""

import os
import signal
import sys
from types import FrameType


_PROCESS = os.getpid()


def main() -> int:
    """Runs `deepspeech2` with the arguments of this process and returns its exit status."""
    signal.signal(signal.SIGTERM, _end)  # `train` and `serve` replace it
    os.environ["DEEPSPEECH2_REGISTER"] = "later"  # read by modeling_deepspeech2/__init__.py
    from modeling_deepspeech2.cli.main import main as run

    del os.environ["DEEPSPEECH2_REGISTER"]
    return run()


def _end(number: int, frame: FrameType | None) -> None:
    """Ends as after Ctrl-C, so that no unfinished file stays behind; a forked worker has none of its own."""
    if os.getpid() != _PROCESS:
        os._exit(128 + number)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
