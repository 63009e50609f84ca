"""Residency: which blocks are on the device, which come next, and which leave for them."""
