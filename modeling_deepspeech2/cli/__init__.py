"""The command `deepspeech2`."""
