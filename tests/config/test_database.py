import pytest
from django.db import connection

from config.database import DatabaseUnusable, refuse_old, refuse_unusable
from config.database_url import DatabaseUrlInvalid, connection_settings


@pytest.mark.parametrize("server_version", [150000, 150018, 180004])
def test_postgres_15_and_newer_is_accepted(server_version: int) -> None:
    refuse_old(server_version)


def test_an_older_postgres_is_refused_and_named() -> None:
    with pytest.raises(DatabaseUnusable, match=r"needs Postgres 15 or newer; DATABASE_URL leads to 14\.12"):
        refuse_old(140012)


def test_a_database_that_does_not_answer_is_named() -> None:
    with pytest.raises(DatabaseUnusable, match="cannot be reached"):
        refuse_unusable("postgresql://nobody@127.0.0.1:1/nothing")


@pytest.mark.django_db
def test_django_itself_refuses_an_older_server_with_every_connection() -> None:
    assert connection.features.minimum_database_version == (15,)


def test_an_address_is_read_into_settings() -> None:
    settings = connection_settings("postgresql://jo%40x:p%2Fw@db.example:6432/books?sslmode=require")

    assert settings == {
        "ENGINE": "config.postgres",
        "NAME": "books",
        "USER": "jo@x",
        "PASSWORD": "p/w",
        "HOST": "db.example",
        "PORT": "6432",
        "OPTIONS": {"sslmode": "require"},
    }


def test_the_folder_of_a_socket_is_the_host() -> None:
    settings = connection_settings("postgresql://postgres@/books?host=/run/pg")

    assert (settings["HOST"], settings["PORT"], settings["OPTIONS"]) == ("/run/pg", "", {})


@pytest.mark.parametrize(
    ("url", "complaint"),
    [("mysql://x/y", "not mysql://"), ("books", "not nothing://"), ("postgresql://host/", "names no database")],
    ids=["another database", "no scheme", "no name"],
)
def test_an_address_of_something_else_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(DatabaseUrlInvalid, match=complaint):
        connection_settings(url)
