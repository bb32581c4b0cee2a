"""The command `deepspeech2 COMMAND …`: finds the module of the command, runs it, and reports user errors in one sentence.

Text goes to the standard output or into files, everything else to the standard error. The exit status is 0; 1 if a file
could not be used or a check failed; 2 for a wrong setting, which stops the command before any work; 130 after
Ctrl-C, 143 after SIGTERM.
"""

import argparse
import importlib
import os
import sys
from types import ModuleType

from ..errors import UserError


COMMANDS = {  # in the order of the help; each has a module of its name, imported when it is asked for
    "transcribe": "turn recordings into text, subtitles or JSON with word times",
    "align": "find when each word of a known text was said",
    "live": "transcribe a microphone or a pipe as you speak",
    "serve": "serve live streams and files by the protocols of OpenAI, Vosk and Wyoming",
    "train": "train or fine-tune a model from a recipe",
    "evaluate": "measure the error rates of a model on a data set",
    "prepare": "turn clips with transcripts into a data set for training",
    "build": "cut long recordings with rough transcripts into a data set",
    "verify": "check a data set before training",
    "vocabulary": "make a tokenizer from texts",
    "language-model": "estimate an n-gram language model from texts",
    "tune": "choose the weights of the language model on a development split",
    "average": "average the weights of several training runs",
    "widen": "make a trained model wider",
    "export": "write a model as ONNX, for browsers, phones and programs without torch",
    "publish": "write or upload a model as a Hub repository",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # transcripts are UTF-8 wherever they go; file names may be no text at all
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        module = load(name) if name in COMMANDS else None
        if name == "train":
            prepare_transformers()
            return module.run(arguments[arguments.index("train") + 1 :])
        parser = make_parser(name, module)
        settings = parser.parse_args(arguments)
        if name == "serve" or getattr(settings, "engine", "torch") == "torch":
            prepare_transformers()
        return settings.run(settings)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads has seen enough, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, ImportError, OSError) as error:
        if "--debug" in arguments:
            raise
        # The Hub's clients say much; their first line says what is wrong.
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, ModuleNotFoundError):  # what needs another extra says so itself
            reason += ": pip install 'modeling-deepspeech2[train]'"
        print(f"deepspeech2 {name}: {reason}", file=sys.stderr)
        return 2


def load(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)


def prepare_transformers() -> None:
    """Registers the package in transformers."""
    importlib.import_module(__package__.partition(".")[0]).register()
    importlib.import_module("transformers.utils.logging").disable_progress_bar()  # of loading weights


def make_parser(name: str | None = None, module: ModuleType | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, of which one has its options."""
    parser = argparse.ArgumentParser(
        prog="deepspeech2",
        description="Speech to text with Deep Speech 2: use, train, measure and publish models.",
        epilog="`deepspeech2 COMMAND --help` explains a command and shows examples.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command, summary in COMMANDS.items():
        if command != name:
            commands.add_parser(command, help=summary)
            continue
        chosen = commands.add_parser(
            command,
            help=summary,
            description=module.__doc__,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(chosen)
        chosen.add_argument("--debug", action="store_true", help="show the traceback of an error")
        chosen.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """Prints the version of the package."""

    def __init__(self, option_strings: list[str], dest: str):
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(importlib.import_module(__package__.partition(".")[0]).__version__)
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
