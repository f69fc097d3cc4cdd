"""The site for synchronous servers; pages work, live ones fall back to polling."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "herdweb.settings")

application = get_wsgi_application()
