"""Backfills of usage: a source's events of a period are filled in, previewed, counted as new facts, and undone."""
