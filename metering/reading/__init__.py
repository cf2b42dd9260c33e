"""Usage read back: quantities, events, the explorer and the API."""
