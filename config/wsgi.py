"""The door for web servers that speak WSGI."""

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.production")
application = get_wsgi_application()

# What is loaded by now stays for ever: the collector of cycles need not walk it again and again beneath each batch.
gc.collect()
gc.freeze()
