"""A Celery app whose broker is a directory, so that there is nothing to install beside it."""

import os
from pathlib import Path

from celery import Celery

app = Celery("tasks", broker=os.environ.get("BROKER_URL", "filesystem://"))
if app.conf.broker_url == "filesystem://":
    queue = Path(os.environ.get("QUEUE_DIR", "/tmp/formation-celery"))
    for name in ("queue", "done", "control"):
        (queue / name).mkdir(parents=True, exist_ok=True)
    app.conf.broker_transport_options = {
        "data_folder_in": str(queue / "queue"),
        "data_folder_out": str(queue / "queue"),
        "processed_folder": str(queue / "done"),
        "control_folder": str(queue / "control"),
    }


@app.task
def add(a, b):
    return a + b
