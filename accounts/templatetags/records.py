"""How records of the admin are shown, beyond what the admin does by itself."""

from __future__ import annotations

import re
from typing import Any

from django import template
from django.contrib import admin
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

_LINK = re.compile(r"</?a\b[^>]*>")


@register.simple_tag(takes_context=True)
def shown_to_reader(context: template.Context, field: Any) -> str:
    """Write a value that cannot be changed; another record's name is a link only if the reader may see that record."""
    contents: SafeString = field.contents()
    named = field.resolved_field[0] if field.resolved_field else None
    model = named.related_model if named is not None and named.is_relation else None
    if model is None:
        return contents
    if admin.site.is_registered(model) and admin.site.get_model_admin(model).has_view_permission(context["request"]):
        return contents
    # What is escaped stays so: nothing but the link's own tags go.
    return mark_safe(_LINK.sub("", contents))  # noqa: S308
