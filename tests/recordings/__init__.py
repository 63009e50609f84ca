"""Recorded runs of the scheduler. `python -m tests.recordings.make` makes them anew."""
