"""The command `deepspeech2`: one module for each of its commands, and what they share."""
