"""Meters: defined, tried on events, changed by versions, back-filled."""
