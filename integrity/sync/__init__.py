"""Following a server live: which keys change, and carrying them over by their state."""
