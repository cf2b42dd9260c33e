"""Starts programs on the tests' own database, and kills them where it hurts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping

from django.conf import settings

from tests.database_address import url_of_the_test_database


def started(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a program of ours in Python that says "ready" when its work begins."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=settings.PROJECT_FOLDER,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.local",
            "DATABASE_URL": url_of_the_test_database(),
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def killed_at_random(process: subprocess.Popen[str], chance: random.Random, *, within_seconds: float) -> bool:
    """Kill the program with SIGKILL at a random moment, and tell whether it was still at work."""
    time.sleep(chance.uniform(0, within_seconds))
    was_alive = process.poll() is None
    process.kill()
    process.wait(timeout=20)
    assert process.stdout
    process.stdout.close()
    return was_alive
