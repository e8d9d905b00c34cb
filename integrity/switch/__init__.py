"""Cutover and rollback: fence, environment switch, state machines, guard."""
