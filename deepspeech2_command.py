"""Starts the command `deepspeech2`.

It stands outside the package because importing the package imports torch and transformers, which takes seconds:
`deepspeech2 --help` and a mistyped option should be answered at once.
"""

import os
import sys


def main() -> int:
    """Runs `deepspeech2` with the arguments of this process and returns its exit status."""
    os.environ["DEEPSPEECH2_REGISTER"] = "later"  # read by modeling_deepspeech2/__init__.py
    from modeling_deepspeech2.cli.main import main as run

    del os.environ["DEEPSPEECH2_REGISTER"]
    return run()


if __name__ == "__main__":
    sys.exit(main())
