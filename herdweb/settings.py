"""Django's settings, all derived from `herdweb.environment`."""

from datetime import timedelta

import dj_database_url
from csp.constants import NONE, SELF

from herdweb.environment import BASE_DIR, Environment

ENVIRONMENT = Environment()

DEBUG = ENVIRONMENT.herdweb_debug
SECRET_KEY = ENVIRONMENT.secret_key
ALLOWED_HOSTS = ENVIRONMENT.hosts

# Where agents' files live; passed on to the runtime factory by its caller.
HERDWEB_STATE_DIR = ENVIRONMENT.herdweb_state_dir
HERDWEB_INSTANCE = ENVIRONMENT.instance
HERDWEB_PASS_ENV = ENVIRONMENT.pass_env
HERDWEB_GIT_ENV = ENVIRONMENT.git_env
HERDWEB_GIT_CA = ENVIRONMENT.herdweb_git_ca
HERDWEB_IMAGE = ENVIRONMENT.herdweb_image
HERDWEB_CONTAINER_USER = ENVIRONMENT.container_user
HERDWEB_MOUNT_ROOTS = ENVIRONMENT.mount_roots
HERDWEB_SECRETS_DIR = ENVIRONMENT.secrets_dir
HERDWEB_REDIS_URL = ENVIRONMENT.redis_url
HERDWEB_FREE_SPACE = ENVIRONMENT.herdweb_free_space
HERDWEB_WORKERS = ENVIRONMENT.herdweb_workers
# In bytes: of one attachment, of all attachments of a run, of a file that is handed out.
HERDWEB_UPLOAD_LIMIT = ENVIRONMENT.upload_limit
HERDWEB_UPLOAD_TOTAL = ENVIRONMENT.upload_total
HERDWEB_DOWNLOAD_LIMIT = ENVIRONMENT.download_limit

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "axes",
    "django_rq",
    "django_crontab",
    "agents",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "herdweb.urls"
ASGI_APPLICATION = "herdweb.asgi.application"
WSGI_APPLICATION = "herdweb.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "agents.views.banner.notices",
            ],
        },
    },
]

DATABASES = {"default": dj_database_url.parse(ENVIRONMENT.database, conn_max_age=60)}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Readers beside one writer, and writers that wait for each other instead of failing.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

RQ_QUEUES = {
    "default": {
        "URL": HERDWEB_REDIS_URL,
        # The default is pickle, with which write access to Redis is execution of code.
        "SERIALIZER": "rq.serializers.JSONSerializer",
        "DEFAULT_TIMEOUT": -1,
        "DEFAULT_RESULT_TTL": 3600,
    },
}
RQ = {"WORKER_CLASS": "agents.worker.HerdWorker", "COMMIT_MODE": "auto"}

# One line that never changes; `agents/cron.py` puts it into a crontab, if it is wanted.
CRONJOBS = [("* * * * *", "agents.cron.tick")]
CRONTAB_COMMENT = f"herdweb {HERDWEB_INSTANCE}: manage.py cron"
CRONTAB_EXECUTABLE = "/usr/bin/crontab"
CRONTAB_DJANGO_MANAGE_PATH = BASE_DIR / "manage.py"
# The script has a log; what comes from nowhere else would be mailed each minute.
CRONTAB_COMMAND_SUFFIX = ">/dev/null 2>&1"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
# Guessing: so many wrong passwords for one account from one address, then a pause.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_LOCKOUT_TEMPLATE = "registration/locked.html"
AXES_HTTP_RESPONSE_CODE = 429
# The audit trail says who logged in.
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "agents:dashboard"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = "en-us"
TIME_ZONE = ENVIRONMENT.herdweb_time_zone
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Media files are never served: they are agents' state.
MEDIA_ROOT = BASE_DIR / "media"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True

# Nothing inline and nothing from elsewhere; `img-src data:` is for Tabler's own icons.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
# A prompt may have a megabyte, and a form has little beside it.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024**2

# A site that is reached by https says so once, in its address; everything else follows.
SECURE = ENVIRONMENT.herdweb_base_url.startswith("https://")
CSRF_TRUSTED_ORIGINS = [ENVIRONMENT.herdweb_base_url] if ENVIRONMENT.herdweb_base_url else []
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = SECURE
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SECURE else None
SECURE_HSTS_SECONDS = 31536000 if SECURE else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = SECURE

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "herdweb.logs.OneLine"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "herdweb": {"level": ENVIRONMENT.herdweb_log_level},
        "agents": {"level": ENVIRONMENT.herdweb_log_level},
    },
}
