"""Recordings of any length and live streams: utterances, words in time, alignment, subtitles."""
