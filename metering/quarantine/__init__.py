"""What could not be counted: listed with its reason, released or discarded."""
