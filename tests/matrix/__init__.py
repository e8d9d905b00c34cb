"""Every kind of value on every server version, moved to every other: what arrives, shown as tables.

    python -m tests.matrix --server PATH --server PATH … --out docs/matrix.md

The sources are loaded with every case that they can hold; for each ordered pair of servers a real migration runs, and
each key's findings become one cell.  An oracle that shares no code with the engine reads both servers as well: a cell
in which the two disagree, or a difference that no expectation names, ends the command with exit code 1.
"""
