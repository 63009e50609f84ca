"""Observers of the scheduler: they see its events and commands, and change nothing."""
