"""What to know before the start: whether the target can be what the source was."""
