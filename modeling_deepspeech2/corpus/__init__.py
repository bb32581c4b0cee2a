"""Recordings to training data: readers, cutting, filtering, prepare, build, verify."""
