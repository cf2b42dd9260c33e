"""The way in over HTTP: what a body may be, how much may come at once, and the answers."""
