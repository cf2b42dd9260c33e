"""The people of the demonstration: one for each role, so that two can do what one must not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from accounts import staff
from accounts.access import Actor, Role
from accounts.models import User

DEMO_PASSWORD = "every-cent-explained"  # noqa: S105 - printed for everybody to use, on a demonstration only


@dataclass(frozen=True, slots=True)
class DemoPerson:
    """Somebody who can sign in to the demonstration."""

    email: str
    name: str
    role: Role


PRODUCT_MANAGER = DemoPerson("pia@countinghouse.example", "Pia Product", Role.PRODUCT_MANAGER)
PRICING_APPROVER = DemoPerson("paul@countinghouse.example", "Paul Pricing", Role.PRICING_APPROVER)
ANALYST = DemoPerson("anna@countinghouse.example", "Anna Analyst", Role.FINANCE_ANALYST)
CONTROLLER = DemoPerson("carl@countinghouse.example", "Carl Controller", Role.FINANCE_CONTROLLER)
SUPPORT = DemoPerson("sam@countinghouse.example", "Sam Support", Role.SUPPORT)
AUDITOR = DemoPerson("audrey@countinghouse.example", "Audrey Auditor", Role.AUDITOR)
ADMINISTRATOR = DemoPerson("ada@countinghouse.example", "Ada Administrator", Role.ADMINISTRATOR)

PEOPLE = (PRODUCT_MANAGER, PRICING_APPROVER, ANALYST, CONTROLLER, SUPPORT, AUDITOR, ADMINISTRATOR)


@dataclass(frozen=True, slots=True)
class DemoStaff:
    """The actors who do the demonstration's work, each within their own role."""

    house: Actor
    product_manager: Actor
    pricing_approver: Actor
    analyst: Actor
    controller: Actor


def hire_staff(*, at: datetime) -> DemoStaff:
    """Give each person of the demonstration a sign-in, unless they have one, and return the actors."""
    house = Actor.system("demo")
    known = set(User.objects.filter(email__in=[person.email for person in PEOPLE]).values_list("email", flat=True))
    for person in PEOPLE:
        if person.email not in known:
            staff.invite_staff(
                email=person.email,
                name=person.name,
                roles=[person.role],
                password=DEMO_PASSWORD,
                actor=house,
                at=at,
            )
    return DemoStaff(
        house=house,
        product_manager=_actor(PRODUCT_MANAGER),
        pricing_approver=_actor(PRICING_APPROVER),
        analyst=_actor(ANALYST),
        controller=_actor(CONTROLLER),
    )


def _actor(person: DemoPerson) -> Actor:
    return Actor.of(User.objects.get(email=person.email), request_id="demo")


def sign_ins() -> str:
    """Return the sign-ins as a table to print."""
    rows = [f"  {person.email:<32}{person.role}" for person in PEOPLE]
    return "\n".join([f"Sign in with the password {DEMO_PASSWORD} as", *rows])
