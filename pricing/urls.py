"""The addresses of this app's pages."""

from django.urls import path

from pricing import file_views, views

app_name = "pricing"
urlpatterns = [
    path("prices/", views.book_list, name="books"),
    path("prices/open/", views.open_book, name="open-book"),
    path("prices/books/<int:book_id>/", views.book_page, name="book"),
    path("prices/books/<int:book_id>/draft/", views.open_draft, name="open-draft"),
    path("prices/versions/<int:version_id>/", views.version_page, name="version"),
    path("prices/versions/<int:version_id>/price/", views.price_form, name="price-form"),
    path("prices/versions/<int:version_id>/set/", views.set_price, name="set-price"),
    path("prices/versions/<int:version_id>/remove/", views.remove_price, name="remove-price"),
    path("prices/versions/<int:version_id>/submit/", views.submit, name="submit"),
    path("prices/versions/<int:version_id>/discard/", views.discard, name="discard"),
    path("prices/versions/<int:version_id>/file/", file_views.download, name="download"),
    path("prices/versions/<int:version_id>/upload/", file_views.check, name="check-file"),
    path("prices/versions/<int:version_id>/import/", file_views.take, name="take-file"),
]
