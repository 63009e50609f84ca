"""The planners: loading plans (PartialLoading) and fleet plans (J3O, BAJ3O).

Pure libraries: no clock, no I/O, no threads, and no randomness but a generator that is passed in.
Only the command lines (`cli.py`, `*/cli.py`, `cli_files.py`) read files and the clock.
"""
