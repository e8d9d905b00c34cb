"""Comparing both sides, in both directions, and concluding a verdict."""
