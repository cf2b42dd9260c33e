"""Can this process serve, and do the jobs keep up? Asked by load balancers and by whoever starts or watches it."""

from datetime import datetime

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache

from metering.models import UsageBatch, UsageDelta
from metering.sources import kafka_lag


@never_cache
def healthz(request: HttpRequest) -> JsonResponse:  # noqa: ARG001 -- Django's signature
    """Answer 200 when the database answers; when it does not, the error middleware answers 503.

    `fold_lag_seconds` is for an alarm: it grows while no worker is at work. It leaves the status alone, for pages and
    totals are right without a worker. So do `kafka_lag_messages`, what waits in Kafka as the readers last saw it, and
    `kafka_partitions_in_trouble`, those that somebody should look at.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    now = timezone.now()
    kafka = kafka_lag.summary(at=now)
    return JsonResponse(
        {
            "status": "ok",
            "fold_lag_seconds": _fold_lag_seconds(at=now),
            "kafka_lag_messages": kafka.lag,
            "kafka_partitions_in_trouble": kafka.in_trouble,
        }
    )


def _fold_lag_seconds(*, at: datetime) -> int:
    """Return how long the oldest usage waits to be folded into hours; both questions are answered by a primary key."""
    batch_id = UsageDelta.objects.order_by("id").values_list("batch_id", flat=True).first()
    if batch_id is None:
        return 0
    received_at = UsageBatch.objects.filter(pk=batch_id).values_list("received_at", flat=True).first()
    return max(int((at - received_at).total_seconds()), 0) if received_at else 0
