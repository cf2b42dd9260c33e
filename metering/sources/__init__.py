"""Files that bring usage: each reader turns a file into rows that ingestion understands."""
