"""What each phase of a run does: ranges of keys, dealt out to one process or several."""
