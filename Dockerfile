FROM python:3.12-slim-bookworm

RUN apt-get update --quiet \
    && apt-get install --yes --quiet --no-install-recommends \
        fontconfig fonts-dejavu-core fonts-droid-fallback fonts-open-sans \
        libharfbuzz-subset0 libpango-1.0-0 libpangoft2-1.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home countinghouse
WORKDIR /srv/countinghouse
COPY requirements/base.txt requirements/base.txt
RUN pip install --no-cache-dir --require-hashes -r requirements/base.txt
COPY . .
# Static files need no secret; the values only satisfy the start.
RUN DJANGO_SETTINGS_MODULE=config.settings.local DATABASE_URL=postgresql://nobody@/nothing \
    python -c "import django; django.setup(); from django.core.management import call_command; call_command('collectstatic', '--no-input')" \
    && mkdir -p var && chown countinghouse var
USER countinghouse
ENV DJANGO_SETTINGS_MODULE=config.settings.production PYTHONUNBUFFERED=1
EXPOSE 8000
CMD ["gunicorn", "config.wsgi:application", "--bind", "0.0.0.0:8000", "--workers", "2", "--threads", "4", "--no-control-socket"]
