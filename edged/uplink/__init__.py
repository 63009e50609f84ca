"""Announced uploads over one slow uplink."""
