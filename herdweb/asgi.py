"""The site for asynchronous servers; this is the one that the stack serves, live pages need it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "herdweb.settings")

application = get_asgi_application()
