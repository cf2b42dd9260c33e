"""The price book pages: books, their versions, prices in words, what a version changes, and asking for approval."""

from __future__ import annotations

from datetime import datetime

from django.contrib import messages
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts import audit_search, inbox
from accounts.access import Permission
from accounts.pages import Crumb, StaffRequest, actor_of, attempt, fragment, page, page_of, staff_page, whole_number
from pricing import forms, overviews, price_books, publication
from pricing.models import Price, PriceBook, PriceBookVersion, Product

PRICES_PER_PAGE = 100
PRODUCTS_OFFERED = 50


@require_GET
@staff_page(Permission.VIEW_PRICES)
def book_list(request: StaffRequest) -> HttpResponseBase:
    """Show every price book with what is live and what is being worked on."""
    books = overviews.books(on=timezone.now().date())
    return page(request, "pricing/books.html", title="Price books", books=books)


@require_POST
@staff_page(Permission.EDIT_PRICES)
def open_book(request: StaffRequest) -> HttpResponseBase:
    """Open a price book."""
    book = attempt(
        request,
        lambda: price_books.open_price_book(
            code=request.POST.get("code", "").strip(),
            name=request.POST.get("name", "").strip(),
            currency=request.POST.get("currency", "").strip().upper(),
            description=request.POST.get("description", "").strip(),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        lambda opened: f"The price book {opened} is open. Draft its first version next.",
    )
    return redirect("pricing:book", book.pk) if book else redirect("pricing:books")


@require_GET
@staff_page(Permission.VIEW_PRICES)
def book_page(request: StaffRequest, book_id: int) -> HttpResponseBase:
    """Show one price book: its versions in time and the contracts on it."""
    book = get_object_or_404(PriceBook, pk=book_id)
    versions = list(overviews.versions_of(book))
    return page(
        request,
        "pricing/book.html",
        title=book.name,
        crumbs=[Crumb("Price books", reverse("pricing:books"))],
        book=book,
        versions=versions,
        zone=overviews.zone_of(book),
        open_version=next((each for each in versions if each.status in ("draft", "in_review")), None),
        rows=page_of(request, overviews.contracts_of(book)),
        entries=audit_search.about(book, *versions[:10])[:12],
    )


@require_POST
@staff_page(Permission.EDIT_PRICES)
def open_draft(request: StaffRequest, book_id: int) -> HttpResponseBase:
    """Open the next version of a book as a draft."""
    draft = attempt(
        request,
        lambda: price_books.open_draft(book_id=book_id, actor=actor_of(request), at=timezone.now()),
        lambda opened: f"Version {opened.number} is a draft with the prices of the newest approved version.",
    )
    return redirect("pricing:version", draft.pk) if draft else redirect("pricing:book", book_id)


@require_GET
@staff_page(Permission.VIEW_PRICES)
def version_page(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Show one version: its prices or what it changes, and what the reader may do with it."""
    version = _version(version_id)
    actor = actor_of(request)
    changes = overviews.changes_of(version)
    tab = "changes" if request.GET.get("tab") == "changes" else "prices"
    search, group = request.GET.get("q", "").strip(), request.GET.get("group", "")
    rows = page_of(request, overviews.prices_of(version, search=search, group=group), PRICES_PER_PAGE)
    asked = inbox.latest_about(kind=publication.APPROVAL_KIND, subject_id=version.pk)
    return page(
        request,
        "pricing/version.html",
        title=f"Version {version.number}",
        crumbs=_crumbs(version.book),
        version=version,
        zone=overviews.zone_of(version.book),
        tab=tab,
        search=search,
        group=group,
        groups=overviews.groups_of(version),
        rows=rows,
        prices=overviews.price_rows(version, list(rows), changes),
        changes=changes,
        standing=inbox.standing(asked, actor) if asked else None,
        may_edit=version.status == PriceBookVersion.Status.DRAFT and actor.may(Permission.EDIT_PRICES),
        entries=audit_search.about(version)[:12],
    )


@require_GET
@staff_page(Permission.EDIT_PRICES)
def price_form(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Show the form for one product's price, or the products that have none yet."""
    version = _version(version_id)
    product_id = whole_number(request.GET.get("product"))
    if product_id is None:
        return _product_choice(request, version)
    product = get_object_or_404(Product, pk=product_id)
    price = Price.objects.filter(version=version, product=product).first()
    spec = price.spec if price else {"model": "per_unit"}
    return fragment(
        request,
        "pricing/price_form.html",
        version=version,
        product=product,
        price=price,
        spec=spec,
        models=forms.EDITABLE_MODELS,
        model_is_editable=spec["model"] in dict(forms.EDITABLE_MODELS),
        tiers=spec.get("tiers") or [{}, {}],
    )


def _product_choice(request: StaffRequest, version: PriceBookVersion) -> HttpResponseBase:
    search = request.GET.get("q", "").strip()
    products = Product.objects.filter(is_active=True).exclude(prices__version=version)
    found = products.filter(name__icontains=search) | products.filter(code__icontains=search)
    return fragment(
        request,
        "pricing/product_choice.html",
        version=version,
        search=search,
        products=found.order_by("group", "name")[:PRODUCTS_OFFERED],
    )


@require_POST
@staff_page(Permission.EDIT_PRICES)
def set_price(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Set the price of one product in a draft."""
    product_id = whole_number(request.POST.get("product")) or 0
    before = Price.objects.filter(version_id=version_id, product_id=product_id).values_list("spec", flat=True).first()
    spec = forms.spec_of(request.POST, before=before)
    attempt(
        request,
        lambda: price_books.set_price(
            version_id=version_id,
            product_id=product_id,
            spec=spec,
            actor=actor_of(request),
            at=timezone.now(),
        ),
        lambda price: f"The price of {price.product} is set.",
    )
    return redirect("pricing:version", version_id)


@require_POST
@staff_page(Permission.EDIT_PRICES)
def remove_price(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Take one product's price out of a draft."""
    product_id = whole_number(request.POST.get("product")) or 0
    attempt(
        request,
        lambda: price_books.remove_price(
            version_id=version_id,
            product_id=product_id,
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "The price is out of this draft.",
    )
    return redirect("pricing:version", version_id)


@require_POST
@staff_page(Permission.EDIT_PRICES)
def submit(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Ask for the approval of a draft from a moment on."""
    effective_from = _moment(request, _version(version_id).book)
    if effective_from is None:
        messages.error(request, "Say from which day on the prices hold.")
        return redirect("pricing:version", version_id)
    attempt(
        request,
        lambda: price_books.submit_version(
            version_id=version_id,
            effective_from=effective_from,
            reason=request.POST.get("reason", "").strip(),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        lambda version: f"{version} waits for somebody else's approval.",
    )
    return redirect("pricing:version", version_id)


def _moment(request: StaffRequest, book: PriceBook) -> datetime | None:
    day, time = request.POST.get("effective_on", ""), request.POST.get("effective_at", "")
    return forms.moment(day, time, overviews.zone_of(book))


@require_POST
@staff_page(Permission.EDIT_PRICES)
def discard(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Throw a draft away."""
    book = _version(version_id).book
    attempt(
        request,
        lambda: price_books.discard_draft(
            version_id=version_id,
            reason=request.POST.get("reason", "").strip(),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "The draft is gone.",
    )
    return redirect("pricing:book", book.pk)


def _version(version_id: int) -> PriceBookVersion:
    return get_object_or_404(PriceBookVersion.objects.select_related("book", "approval", "created_by"), pk=version_id)


def _crumbs(book: PriceBook) -> list[Crumb]:
    return [Crumb("Price books", reverse("pricing:books")), Crumb(book.name, reverse("pricing:book", args=[book.pk]))]
