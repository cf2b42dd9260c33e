"""A program that sends events until it is killed, and says of each that it was taken: DIRECTORY URL KEY FIRST COUNT."""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime

from countinghouse import Client


def main(directory: str, url: str, key: str, first: int, count: int) -> None:
    logging.disable()
    moment = datetime.fromisoformat(os.environ["MOMENT"])
    with Client(
        url=url,
        key=key,
        directory=directory,
        source="fleet",
        batch_events=20,
        batch_seconds=0.01,
        first_retry_seconds=0.05,
        longest_retry_seconds=0.2,
    ) as client:
        for number in range(first, first + count):
            client.send(type="gpu.used", subject="project-1", data={"seconds": "1"}, id=f"f{number}", time=moment)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
