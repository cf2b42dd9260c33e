"""API keys as Django REST framework knows authentication: the view names its scope, the key must hold it."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.access import Actor
from accounts.api_keys import authenticate_api_key
from accounts.models import ApiKey
from accounts.request_context import current_request_id


class ApiKeyAuthentication(BaseAuthentication):
    """Puts the key of the request into `request.auth`; the view says in `required_scope` what the key must hold."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, ApiKey]:
        """Return the key; a missing or refused key raises an ApiKeyRefused, which becomes 401 or 403."""
        view = request.parser_context["view"]
        key = authenticate_api_key(
            authorization_header=request.headers.get("Authorization"),
            scope=view.required_scope,
            at=timezone.now(),
        )
        return AnonymousUser(), key

    def authenticate_header(self, request: Request) -> str:
        """Name the scheme for the WWW-Authenticate header of a 401."""
        del request
        return 'Bearer realm="countinghouse"'


class HasApiKey(BasePermission):
    """Lets in nobody without a key; whose data the key may see is `request.auth.customer_id`."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Tell whether the request carries a key that authentication accepted."""
        del view
        return isinstance(request.auth, ApiKey)


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the API's own description speaks of the keys."""

    target_class = "accounts.api.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        """Describe the header for OpenAPI."""
        del auto_schema
        return {"type": "http", "scheme": "bearer", "bearerFormat": "ch_<prefix>_<random>"}


def actor_of(request: Request) -> Actor:
    """Return the actor for a request that came in with an API key."""
    assert isinstance(request.auth, ApiKey)
    return Actor.of_key(request.auth, request_id=current_request_id())
