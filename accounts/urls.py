"""The addresses of this app's pages."""

from django.urls import path

from accounts import views

app_name = "accounts"
urlpatterns = [
    path("approvals/", views.approval_inbox, name="inbox"),
    path("approvals/<int:request_id>/", views.approval_page, name="approval"),
    path("approvals/<int:request_id>/decide/", views.decide_approval, name="decide"),
    path("approvals/<int:request_id>/withdraw/", views.withdraw_approval, name="withdraw"),
    path("audit/", views.audit_log, name="audit"),
]
