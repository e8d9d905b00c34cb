"""A migration whose source is an RDB file, of any server and without one."""
