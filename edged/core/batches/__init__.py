"""Batches: what runs on the device, when the next one begins, and how many rows it has."""
