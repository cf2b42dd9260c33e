import os
import subprocess
import sys
from pathlib import Path

from django.conf import settings

PROJECT = Path(__file__).resolve().parent.parent.parent
COMPLETE = {
    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "DATABASE_URL": "postgresql://books@db.example/books",
    "ALLOWED_HOSTS": "billing.example, www.billing.example",
    "EMAIL_HOST": "smtp.example",
    "EMAIL_PORT": "587",
    "EMAIL_HOST_USER": "billing",
    "EMAIL_HOST_PASSWORD": "secret",
    "DEFAULT_FROM_EMAIL": "billing@billing.example",
}


def _production(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "config.settings.production", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_production_refuses_to_start_and_names_everything_that_is_missing() -> None:
    started = _production("import django; django.setup()", {"SECRET_KEY": "x" * 60, "EMAIL_HOST": "smtp.example"})

    missing = "DATABASE_URL, ALLOWED_HOSTS, EMAIL_PORT, EMAIL_HOST_USER, EMAIL_HOST_PASSWORD, DEFAULT_FROM_EMAIL"
    assert started.returncode != 0
    assert f"does not start in production without: {missing}." in started.stderr


def test_production_with_everything_passes_the_deployment_checks() -> None:
    program = (
        "import django; django.setup()\n"
        "from django.core.management import call_command\n"
        "call_command('check', deploy=True, fail_level='WARNING')\n"
    )

    checked = _production(program, COMPLETE)

    assert checked.returncode == 0, checked.stderr


def test_production_trusts_forms_from_its_own_hosts_and_from_those_below_a_domain() -> None:
    program = "from django.conf import settings as s; print(*sorted(s.CSRF_TRUSTED_ORIGINS))"

    printed = _production(program, COMPLETE | {"ALLOWED_HOSTS": "billing.example,.books.example,*"})

    expected = ["https://*.books.example", "https://billing.example", "https://books.example"]
    assert printed.stdout.split() == expected


def test_a_header_about_tls_is_believed_only_from_a_proxy_of_ones_own() -> None:
    program = "from django.conf import settings as s; print(s.SECURE_PROXY_SSL_HEADER, s.TRUSTED_PROXIES)"

    alone = _production(program, COMPLETE)
    behind = _production(program, COMPLETE | {"TRUSTED_PROXIES": "1"})

    assert alone.stdout.strip() == "None 0"
    assert behind.stdout.strip() == "('HTTP_X_FORWARDED_PROTO', 'https') 1"


def test_production_speaks_tls_to_the_mail_server_and_never_shows_a_traceback() -> None:
    program = "from django.conf import settings as s; print(s.EMAIL_USE_TLS, s.EMAIL_USE_SSL, s.DEBUG, s.ALLOWED_HOSTS)"

    printed = _production(program, COMPLETE)

    assert printed.stdout.strip() == "True False False ['billing.example', 'www.billing.example']"


def test_production_logs_to_stdout_and_each_line_names_its_request() -> None:
    program = (
        "import django; django.setup()\n"
        "import logging\n"
        "from accounts.request_context import request_context\n"
        "logger = logging.getLogger('billing.delivery')\n"
        "with request_context('order-66'): logger.warning('A mail was refused.')\n"
        "logger.debug('Too small to say.'); logger.info('Outside of a request.')\n"
    )

    printed = _production(program, COMPLETE)

    assert [line.split(" ", 2)[2] for line in printed.stdout.splitlines()] == [
        "WARNING billing.delivery [order-66] A mail was refused.",
        "INFO billing.delivery [-] Outside of a request.",
    ]


def test_a_mistake_of_ours_is_logged_with_its_traceback_and_the_id_that_the_page_shows() -> None:
    program = (
        "import django; django.setup()\n"
        "import config.urls\n"
        "from django.urls import path\n"
        "def broken(request): return 1 / 0\n"
        "config.urls.urlpatterns.insert(0, path('broken', broken))\n"
        "from django.test import Client\n"
        "client = Client(raise_request_exception=False, headers={'X-Request-ID': 'order-66'})\n"
        "client.get('/broken', secure=True, HTTP_HOST='billing.example')\n"
    )

    printed = _production(program, COMPLETE)

    assert "ERROR django.request [order-66] Internal Server Error: /broken" in printed.stdout, printed.stderr
    assert printed.stdout.count("ZeroDivisionError") == 1


def test_tests_run_with_the_settings_of_the_tests_whatever_the_environment_says() -> None:
    assert settings.SETTINGS_MODULE == "config.settings.test"
