"""Dragonfly's own replication, driven and not trusted."""
