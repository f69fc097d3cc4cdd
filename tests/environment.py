"""Loaded before Django's settings: tests have a state directory, a database and a Redis of their own."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

STATE = Path(tempfile.mkdtemp(prefix="herdweb-tests-"))
atexit.register(shutil.rmtree, STATE, ignore_errors=True)

for name in [name for name in os.environ if name.startswith(("HERDWEB_", "ANTHROPIC_", "CLAUDE_"))]:
    del os.environ[name]
os.environ["HERDWEB_STATE_DIR"] = str(STATE)
os.environ["HERDWEB_SECRET_KEY"] = f"tests-{STATE.name}-of-which-nothing-depends-on-secrecy-but-length"
# Whatever the disk of this machine has left.
os.environ["HERDWEB_FREE_SPACE"] = "1m"
os.environ["HERDWEB_REDIS_URL"] = f"unix://{STATE}/redis.sock"
os.environ.setdefault("DATABASE_URL", f"sqlite:///{STATE}/herdweb.sqlite3")
