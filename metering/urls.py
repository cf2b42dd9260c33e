"""The addresses of this app's pages."""

from django.urls import path

from metering import views

app_name = "metering"
urlpatterns = [
    path("usage/quarantine/", views.quarantine_page, name="quarantine"),
    path("usage/quarantine/group/", views.quarantine_group, name="quarantine-group"),
    path("usage/quarantine/release/", views.release, name="release"),
    path("usage/quarantine/discard/", views.discard, name="discard"),
    path("usage/kafka/", views.kafka_page, name="kafka"),
    path("usage/batches/", views.batch_list, name="batches"),
    path("usage/batches/<int:batch_id>/", views.batch_page, name="batch"),
]
