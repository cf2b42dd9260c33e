"""What it can do on this machine, measured; nothing in the test suite fails because a machine is slow."""
