"""What a board says of itself in /proc and sysfs: its kind, load, temperatures, rails, clocks."""
