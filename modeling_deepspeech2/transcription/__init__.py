"""Recordings of any length and live streams: utterances, word times, alignment, subtitles."""
