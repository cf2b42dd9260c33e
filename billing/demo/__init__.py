"""Demonstration data: a month of real usage, billed, and a synthetic GPU cloud beside it."""
