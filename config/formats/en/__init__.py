"""English, with the day in front of the month."""
