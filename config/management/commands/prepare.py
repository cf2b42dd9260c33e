"""`manage.py prepare`: bring the database in line with the code: tables, roles, room for the usage to come."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from accounts.access import sync_roles
from metering.retention import partitions


class Command(BaseCommand):
    help = "Migrates and gives every role its permissions: what an installation needs after an upgrade. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--demo", action="store_true", help="bill the demonstration data too, if nothing is billed")

    def handle(self, *args: object, **options: Any) -> None:
        del args
        call_command("migrate", verbosity=options["verbosity"], stdout=self.stdout)
        changed = sync_roles()
        partitions.make_ahead(at=timezone.now())
        if options["verbosity"]:
            self.stdout.write(f"Roles brought up to date: {', '.join(role.value for role in changed) or 'none'}.")
        if options["demo"]:
            call_command("demo", if_empty=True, stdout=self.stdout)
