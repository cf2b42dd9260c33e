"""What browsers may do with our pages, said with each of them."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

# Scripts are not limited: the admin's own stand within its pages, and Alpine evaluates what attributes say. Pages show
# their own PDFs in frames, and nobody else's frame shows ours.
_PAGE_POLICY = "base-uri 'self'; form-action 'self'; frame-ancestors 'self'; frame-src 'self'; object-src 'none'"


class ContentSecurityPolicyMiddleware:
    """Puts the policy on pages. Not on PDFs, whose own viewer `object-src` would keep from showing them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.get("Content-Type", "").startswith("text/html"):
            response.headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
        return response
