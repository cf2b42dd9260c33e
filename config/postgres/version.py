"""The oldest Postgres that the tables work on, known without loading Django."""

# Unique constraints over NULLs and views that ask as their invoker came with this version.
OLDEST_VERSION = 15
