"""edged: an inference daemon for edge devices that batches, loads and places by parameter block."""

__version__ = "0.1.0"
