"""Peers of the front: who may connect, what they may hold, and who is cut off."""
