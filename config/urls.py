"""Every address of the site: pages of the four apps, the API, the admin, and the door for health checks."""

from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, reverse_lazy
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from accounts.views import OwnPassword, sign_in_page, sign_out
from config.health import healthz

APPS = ("billing", "pricing", "metering", "accounts")


def _all(module: str, *, below: str) -> list[URLPattern | URLResolver]:
    """Include the module of this name of each app that has one."""
    return [path(below, include(f"{app}.{module}")) for app in APPS if find_spec(f"{app}.{module}")]


urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", healthz, name="healthz"),
    # In front of the admin's own, which tell nobody, and would save behind the verbs' back.
    path("admin/login/", sign_in_page),
    path("admin/logout/", sign_out),
    path("admin/password_change/", OwnPassword.as_view()),
    path("admin/", admin.site.urls),
    *_all("api_urls", below="api/v1/"),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    *_all("urls", below=""),
    # Reached only while no app claims the start page.
    path("", RedirectView.as_view(url=reverse_lazy("admin:index"))),
]

handler400 = "config.errors.bad_request"
handler403 = "config.errors.permission_denied"
handler404 = "config.errors.not_found"
handler500 = "config.errors.server_error"
