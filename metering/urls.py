"""The addresses of this app's pages."""

from django.urls import path

from metering import completeness_views, retention_views, views

app_name = "metering"
urlpatterns = [
    path("usage/completeness/", completeness_views.completeness_page, name="completeness"),
    path("usage/completeness/hour/", completeness_views.hour_page, name="completeness-hour"),
    path("usage/completeness/findings/", completeness_views.findings_list, name="findings"),
    path("usage/completeness/acknowledge/", completeness_views.acknowledge, name="acknowledge"),
    path("usage/quarantine/", views.quarantine_page, name="quarantine"),
    path("usage/quarantine/group/", views.quarantine_group, name="quarantine-group"),
    path("usage/quarantine/release/", views.release, name="release"),
    path("usage/quarantine/discard/", views.discard, name="discard"),
    path("usage/kafka/", views.kafka_page, name="kafka"),
    path("usage/batches/", views.batch_list, name="batches"),
    path("usage/batches/<int:batch_id>/", views.batch_page, name="batch"),
    path("usage/retention/", retention_views.retention_page, name="retention"),
    path("usage/retention/months/<str:month>/<slug:step>/", retention_views.take_step, name="retention-step"),
    path("usage/retention/holds/", retention_views.set_hold, name="set-hold"),
    path("usage/retention/holds/<int:hold_id>/lift/", retention_views.lift_hold, name="lift-hold"),
    path("usage/retention/erasures/", retention_views.ask_erasure, name="ask-erasure"),
    path("usage/retention/erasures/new/", retention_views.erasure_page, name="erasure"),
]
