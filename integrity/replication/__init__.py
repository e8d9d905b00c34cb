"""What a replica of a Redis does, as far as a snapshot needs it: asking for everything, and taking it in."""
