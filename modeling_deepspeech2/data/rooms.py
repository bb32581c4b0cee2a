"""Simulates rooms: training speech as a microphone across the room hears it, with the echoes of the walls.

Sizes, absorption and the order of the echoes are those of the small rooms of Ko et al., A study on data augmentation of
reverberant speech for robust speech recognition (ICASSP 2017); the echoes are computed by the image method.
"""

import numpy as np
import pyroomacoustics
from scipy.signal import fftconvolve


SIZES = ((1.0, 1.0, 2.0), (10.0, 10.0, 5.0))  # metres: the smallest and the largest length, width and height
ABSORPTION = (0.2, 0.8)  # share of the energy that a wall takes
ECHO_ORDER = 10  # walls that the last echoes have met
MARGIN = 0.1  # of the room's size, between a wall and the speaker or the microphone


def room_response(sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """The impulse response of a random room, shape (samples,), from the direct sound on, of energy 1."""
    size = generator.uniform(*SIZES)
    walls = pyroomacoustics.Material(generator.uniform(*ABSORPTION))
    room = pyroomacoustics.ShoeBox(size, fs=sampling_rate, materials=walls, max_order=ECHO_ORDER)
    speaker, microphone = (size * generator.uniform(MARGIN, 1 - MARGIN, 3) for _ in range(2))
    room.add_source(speaker)
    room.add_microphone(microphone)
    room.compute_rir()
    response = room.rir[0][0]
    response = response[np.abs(response).argmax() :]
    return response / np.sqrt(np.sum(np.square(response)))


def in_room(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Speech in the room of this impulse response; its length stays, so that echoes behind its end are cut off."""
    return fftconvolve(waveform, response)[: len(waveform)].astype(np.float32)
