"""The kernel that coordinator, agent and formctl share."""

__version__ = "0.1.0"
