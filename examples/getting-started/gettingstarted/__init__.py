"""A small twelve-factor app: configured by its environment, logging to stdout, keeping nothing."""

VERSION = "1"
