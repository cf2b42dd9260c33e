"""How much: meters, usage events counted once, and what they add up to."""
