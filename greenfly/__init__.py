"""Greenfly: move an application from Redis to Dragonfly, prove it, and be able to move it back."""

from integrity.version import __version__

__all__ = ["__version__"]
