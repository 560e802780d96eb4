"""What gRPC reads from the environment, to be set before it is imported. Light."""

from __future__ import annotations

import os

VARIABLES = {
    # Its own lines would say again, in its own words, what we say in ours.
    "GRPC_VERBOSITY": "NONE",
    # Suites of TLS 1.2 that no certificate of ours fits: what is left is TLS 1.3, of which gRPC
    # does not let us choose.
    "GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES128-GCM-SHA256",
}


def prepare() -> None:
    """Called first thing by every program."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
