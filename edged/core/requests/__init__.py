"""Requests from their arrival to their one answer."""
