"""Files of usage: sent, mapped, looked at, loaded, reported."""
