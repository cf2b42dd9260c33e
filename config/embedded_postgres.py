"""The embedded Postgres of a machine that has no server."""

from pathlib import Path


def embedded_url(folder: Path) -> str:
    return f"postgresql://postgres@/countinghouse?host={folder}"
