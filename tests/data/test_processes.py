"""Work in several processes: a dead one is one sentence, and no hang."""

import os
import signal

import pytest

from modeling_deepspeech2.data.errors import DataError
from modeling_deepspeech2.data.processes import map_in_processes


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when the memory is full
    return number


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(DataError, match="One of 2 worker processes was killed.*use fewer processes"):
        list(map_in_processes(die, range(8), 2))
