"""Every address of the site: pages of the four apps, the API, the admin, and the door for health checks."""

from importlib import import_module
from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, reverse_lazy
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from config.health import healthz

APPS = ("billing", "pricing", "metering", "accounts")
Patterns = list[URLPattern | URLResolver]


def _pages() -> Patterns:
    return [path("", include(f"{app}.urls")) for app in APPS if find_spec(f"{app}.urls")]


def _api() -> Patterns:
    return [
        pattern
        for app in APPS
        if find_spec(f"{app}.urls")
        for pattern in getattr(import_module(f"{app}.urls"), "api_urlpatterns", [])
    ]


urlpatterns: Patterns = [
    path("healthz", healthz, name="healthz"),
    path("admin/", admin.site.urls),
    path("api/v1/", include(_api())),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    *_pages(),
    # When no app claims the start page.
    path("", RedirectView.as_view(url=reverse_lazy("admin:index"))),
]

handler400 = "config.errors.bad_request"
handler403 = "config.errors.permission_denied"
handler404 = "config.errors.not_found"
handler500 = "config.errors.server_error"
