"""The device worker: the process that holds the device, its memory and its threads."""
