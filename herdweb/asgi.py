"""The site for asynchronous servers; this is the one that the stack serves, live pages need it."""

import os

from django.core.asgi import get_asgi_application

from herdweb.bodies import BodyLimit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "herdweb.settings")

site = get_asgi_application()

from django.conf import settings  # noqa: E402 (only now there are any)

# Attachments, and what every form may have beside its files.
application = BodyLimit(site, settings.HERDWEB_UPLOAD_TOTAL + settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
