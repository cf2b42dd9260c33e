"""How long usage is kept and how: partitions, archives, legal holds, erasure."""
