"""The records of this app in the admin: products, price books and contracts; versions and prices to look at."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminDateWidget

from accounts.access import Permission
from accounts.admin_access import Dialog, PlainRecordAdmin, ReasonDialog, ReasonForm, RecordAdmin, asks, shown
from accounts.pages import actor_of
from pricing import contracts, price_books, products
from pricing.models import Contract, Price, PriceBook, PriceBookVersion, Product
from pricing.price_texts import price_text
from pricing.products import ProductTerms


class ProductForm(ReasonForm):
    """A product."""

    class Meta:
        model = Product
        fields = "__all__"

    def terms(self) -> ProductTerms:
        """Return what was typed."""
        # What can no longer be changed is not a field of the form, and is as it was.
        typed = {name: self.cleaned_data.get(name, getattr(self.instance, name)) for name in _PRODUCT_FIELDS}
        meter = typed.pop("meter")
        return ProductTerms(**typed, meter_id=meter and meter.pk)


_PRODUCT_FIELDS = ("code", "name", "group", "unit", "meter", "dimension_filter")


@admin.register(Product)
class ProductAdmin(RecordAdmin):
    """What is sold, and which usage each product takes."""

    form = ProductForm
    view_permission = Permission.VIEW_PRICES
    edit_permission = Permission.EDIT_PRICES
    list_display = ("name", "code", "group", "unit", "meter", "shown_filter", "is_active")
    list_filter = ("meter", "group", "is_active")
    list_select_related = ("meter",)
    search_fields = ("name", "code", "group")
    fieldsets = (
        (None, {"fields": (("code", "name"), ("group", "unit"))}),
        ("Usage", {"fields": ("meter", "dimension_filter")}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Ask whether a product is still offered once it is there."""
        fieldsets = super().get_fieldsets(request, obj)
        return fieldsets if obj is None else [*fieldsets[:2], ("Offer", {"fields": ["is_active"]}), *fieldsets[2:]]

    @shown("Takes")
    def shown_filter(self, product: Product) -> str:
        return ", ".join(f"{name} {value}" for name, value in product.dimension_filter.items())

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(form, ProductForm)
        if change:
            return products.change_product(
                product_id=obj.pk,
                terms=form.terms(),
                is_active=form.cleaned_data["is_active"],
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        added = products.add_products(products=[form.terms()], actor=actor_of(request), at=timezone.now())
        return added[0]


@admin.register(PriceBook)
class PriceBookAdmin(RecordAdmin):
    """Price books; their versions and prices are worked on in the pages of their own."""

    view_permission = Permission.VIEW_PRICES
    edit_permission = Permission.EDIT_PRICES
    list_display = ("name", "code", "currency", "description")
    list_filter = ("currency",)
    search_fields = ("name", "code")
    fields = (("code", "name"), "currency", "description")

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep what was settled when the price book was opened."""
        del request
        return () if obj is None else ("code", "currency")

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        typed = form.cleaned_data
        if change:
            return price_books.rename_price_book(
                book_id=obj.pk,
                name=typed["name"],
                description=typed["description"],
                reason=typed["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return price_books.open_price_book(
            code=typed["code"],
            name=typed["name"],
            currency=typed["currency"],
            description=typed["description"],
            actor=actor_of(request),
            at=timezone.now(),
        )


@admin.register(PriceBookVersion)
class PriceBookVersionAdmin(RecordAdmin):
    """The versions of all price books, to look at."""

    view_permission = Permission.VIEW_PRICES
    list_display = ("book", "number", "shown_status", "effective_from", "created_by")
    list_filter = (("book", AutocompleteSelectFilter), ("status", ChoicesDropdownFilter))
    list_select_related = ("book", "created_by")
    search_fields = ("book__name", "book__code")
    fields = ("book", "number", "status", "effective_from", "notes", "approval", "created_by", "created_at")

    @shown("Status", ordering="status", label={"Live": "success", "Approved": "info", "In review": "warning"})
    def shown_status(self, version: PriceBookVersion) -> str:
        return version.get_status_display()


@admin.register(Price)
class PriceAdmin(PlainRecordAdmin):
    """The prices of all versions, to look at."""

    view_permission = Permission.VIEW_PRICES
    list_display = ("product", "version", "shown_price")
    list_filter = (("product", AutocompleteSelectFilter), ("version__book", AutocompleteSelectFilter))
    list_select_related = ("product", "version__book")
    search_fields = ("product__name", "product__code")
    fields = ("product", "version", "shown_price", "spec")

    @shown("Price")
    def shown_price(self, price: Price) -> str:
        return price_text(price.spec, currency=price.version.book.currency, unit=price.product.unit)


class EndDialog(ReasonDialog):
    """Asks for the day on which a contract ends, and why."""

    ends_on = forms.DateField(
        label="Ends on (the first day that is no longer billed)",
        widget=UnfoldAdminDateWidget(attrs={"type": "date"}),
    )
    field_order = ("ends_on", "reason")


@admin.register(Contract)
class ContractAdmin(RecordAdmin):
    """Contracts: signed here, and ended here; other terms are another contract."""

    view_permission = Permission.VIEW_PRICES
    edit_permission = Permission.EDIT_CONTRACTS
    list_display = ("customer", "price_book", "currency", "starts_on", "shown_end", "anchor_day")
    list_filter = (("customer", AutocompleteSelectFilter), ("price_book", AutocompleteSelectFilter), "currency")
    list_select_related = ("customer", "price_book")
    search_fields = ("customer__name", "customer__code", "price_book__name")
    autocomplete_fields = ("customer", "price_book")
    actions_detail = ("end",)

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Show an open end as such once the contract is signed."""
        del request
        end = "ends_on" if obj is None else "shown_end"
        return [(None, {"fields": (("customer", "price_book"), ("starts_on", end), "anchor_day")})]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep what was signed."""
        del request
        return () if obj is None else ("customer", "price_book", "starts_on", "shown_end", "anchor_day")

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Offer no form for what was signed: its end is agreed in a dialog of its own."""
        return obj is None and super().has_change_permission(request, obj)

    @shown("Ends on (excluded)", ordering="ends_on")
    def shown_end(self, contract: Contract) -> str:
        return f"{contract.ends_on:%-d %b %Y}" if contract.ends_on else "open"

    @asks(
        "End the contract",
        Dialog(
            title="End this contract",
            submit="End it",
            text="Billing stops before the day that you choose. What was billed stays; an end agreed before is moved.",
            form=EndDialog,
        ),
        icon="event_busy",
    )
    def end(self, request: HttpRequest, form: EndDialog, object_id: str) -> HttpResponse:
        return self.settle(
            request,
            object_id,
            verb=lambda: contracts.end_contract(
                contract_id=int(object_id),
                ends_on=form.cleaned_data["ends_on"],
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            ),
            done=f"The contract ends before {form.cleaned_data['ends_on']:%-d %b %Y}.",
        )

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        if change:
            return super().write(request, form, obj=obj, change=change)
        typed = form.cleaned_data
        return contracts.sign_contract(
            customer_id=typed["customer"].pk,
            price_book_id=typed["price_book"].pk,
            starts_on=typed["starts_on"],
            ends_on=typed["ends_on"],
            anchor_day=typed["anchor_day"],
            actor=actor_of(request),
            at=timezone.now(),
        )
