"""Reading RDB files that any server wrote: keys with their bodies in file order, and values out of the bodies.

:mod:`~integrity.rdb.reader` finds where everything stands, :mod:`~integrity.rdb.values` decodes a body into what the
server's own read command would answer, :mod:`~integrity.rdb.index` makes the rows of a manifest of both.
"""
