"""The simulator: the daemon's own scheduler under a virtual clock. What it prints is simulated."""
