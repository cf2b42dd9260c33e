"""python -m benchmarks [NAME ...]: measure, and print one JSON object a line.

Each line has `name`, `value` (the median of its runs), `unit`, `budget` where there is one, and details. NAME is a
module of this package (rating, pdf, ingest, billing, usage_read, sustained); without one, all are measured.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys

import django

MODULES = ("rating", "pdf", "ingest", "billing", "usage_read", "sustained")


def main(names: list[str]) -> int:
    """Measure what was asked for; answer with the exit code."""
    unknown = sorted(set(names) - set(MODULES))
    if unknown:
        sys.stderr.write(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(MODULES)}.\n")
        return 2
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")
    django.setup()
    machine = {"name": "machine", "cores": os.cpu_count(), "python": platform.python_version()}
    sys.stdout.write(json.dumps(machine) + "\n")
    for name in names or MODULES:
        for result in importlib.import_module(f"benchmarks.{name}").run():
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
    return 0


sys.exit(main(sys.argv[1:]))
