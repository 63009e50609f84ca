"""The planners: loading plans (PartialLoading) and fleet plans (J3O, BAJ3O).

They are pure libraries: no clock, no I/O, no threads, no randomness but a generator passed in.
Only the command lines (`cli.py`, `*/cli.py`, `cli_files.py`) read files and the clock.
"""
