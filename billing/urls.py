"""The addresses of this app's pages."""

from django.urls import path

from billing import invoice_views, line_views, run_views, views

app_name = "billing"
urlpatterns = [
    path("", views.home_page, name="home"),
    path("home/usage/", views.usage_chart, name="usage-chart"),
    path("customers/<int:customer_id>/", views.customer_page, name="customer"),
    path("health/", views.health_page, name="health"),
    path("runs/", run_views.run_list, name="runs"),
    path("runs/start/", run_views.start_run, name="start-run"),
    path("runs/<int:run_id>/", run_views.run_page, name="run"),
    path("runs/<int:run_id>/progress/", run_views.run_progress, name="run-progress"),
    path("runs/<int:run_id>/findings/", run_views.run_findings, name="run-findings"),
    path("runs/<int:run_id>/submit/", run_views.submit_run, name="submit-run"),
    path("runs/<int:run_id>/redo/", run_views.redo_run, name="redo-run"),
    path("runs/<int:run_id>/cancel/", run_views.cancel_run, name="cancel-run"),
    path("runs/<int:run_id>/retry/", run_views.retry_parked, name="retry-parked"),
    path("runs/<int:run_id>/issue/", run_views.issue_run, name="issue-run"),
    path("invoices/", invoice_views.invoice_index, name="invoices"),
    path("invoices/<int:invoice_id>/", invoice_views.invoice_page, name="invoice"),
    path("invoices/<int:invoice_id>/pdf/", invoice_views.invoice_pdf, name="invoice-pdf"),
    path("invoices/<int:invoice_id>/send/", invoice_views.resend_invoice, name="resend"),
    path("invoices/lines/<int:line_id>/why/", line_views.why, name="why"),
    path("invoices/lines/<int:line_id>/events/", line_views.line_events, name="line-events"),
]
