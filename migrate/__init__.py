"""Move a running Docker container to another host."""

__version__ = "0.1.0"
