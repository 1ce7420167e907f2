"""Runs collected and compared: the page about them, and tables."""
