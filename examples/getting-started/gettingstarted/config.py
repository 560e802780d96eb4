"""All that may differ between deploys, and where it comes from: the environment, read once."""

import os

GREETING = os.environ.get("GREETING", "Hello")
TIMES = int(os.environ.get("TIMES", "3"))
IS_SIGNED = bool(os.environ.get("SESSION_KEY"))
NAME = os.environ.get("PS", "web.1")
