"""Vocabularies, n-gram estimation, and tuning of the decoder."""
