"""`manage.py sync_roles`: bring the groups of the database in line with the roles of the code."""

from __future__ import annotations

from django.core.management.base import BaseCommand

from accounts.access import sync_roles


class Command(BaseCommand):
    help = "Gives every role exactly its permissions; run it after every migrate."

    def handle(self, *args: object, **options: object) -> None:
        del args, options
        changed = sync_roles()
        text = ", ".join(role.value for role in changed) or "nothing to change"
        self.stdout.write(f"Roles: {text}.")
