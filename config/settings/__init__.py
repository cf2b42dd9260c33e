"""One module for each way of running: local, test and production share base."""
