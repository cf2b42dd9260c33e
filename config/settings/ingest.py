"""How much usage the API's door takes at once; beyond that it answers 429, and senders come again (docs/running.md)."""

import os
from decimal import Decimal

INGEST_BODY_LIMIT_BYTES = 16 * 1024 * 1024
# Of one process. More than there are processors only makes each slower; threads beyond these answer everything else.
INGEST_AT_ONCE = int(os.environ.get("INGEST_AT_ONCE") or 2)
# So many more wait for their turn, a moment only, so that two that come together need no second round.
INGEST_WAITING = int(os.environ.get("INGEST_WAITING") or 1)
INGEST_WAIT_SECONDS = 1.0
# Of the database within one batch: 10,000 events take a fraction of a second.
INGEST_LOCK_TIMEOUT_SECONDS = float(os.environ.get("INGEST_LOCK_TIMEOUT_SECONDS") or 5)
INGEST_STATEMENT_TIMEOUT_SECONDS = float(os.environ.get("INGEST_STATEMENT_TIMEOUT_SECONDS") or 20)
# Deltas that wait for the fold. Reads stay right with any number, and become slower.
INGEST_BACKLOG_LIMIT = int(os.environ.get("INGEST_BACKLOG_LIMIT") or 5_000_000)

# An upload is kept in the database until it is loaded.
USAGE_FILE_LIMIT_BYTES = int(os.environ.get("USAGE_FILE_LIMIT_BYTES") or 1024 * 1024 * 1024)

# A correction of more events than this, or of a greater part of any month's quantity, takes a second person.
USAGE_CORRECTION_FREE_EVENTS = int(os.environ.get("USAGE_CORRECTION_FREE_EVENTS") or 10)
USAGE_CORRECTION_FREE_SHARE = Decimal(os.environ.get("USAGE_CORRECTION_FREE_SHARE") or "0.01")
# A month of more events than this takes several files; each is written, verified and loaded in a step of its own.
ARCHIVE_PART_EVENTS = int(os.environ.get("ARCHIVE_PART_EVENTS") or 1_000_000)

# How long raw events are looked for before the question is refused: a thread of the site is held meanwhile.
USAGE_EVENTS_TIMEOUT_SECONDS = float(os.environ.get("USAGE_EVENTS_TIMEOUT_SECONDS") or 10)
