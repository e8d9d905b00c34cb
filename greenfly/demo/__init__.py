"""The demonstration: servers on loopback, and an application's data to move between them."""
