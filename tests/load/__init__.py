"""An application under a move: it writes, keeps a log of what was acknowledged, and an oracle replays that log.

Independent of what it judges: nothing here imports the engine.

- :mod:`tests.load.load`: starts and stops the writers, which are processes of their own (:mod:`tests.load.worker`);
- :mod:`tests.load.journal`: the log, one append-only file per process;
- :mod:`tests.load.replay`: what a server must hold according to the log;
- :mod:`tests.load.judge`: what it holds, and what is lost, resurrected or duplicated;
- :mod:`tests.load.timing`: the write pause, and whether two sides ever accepted writes at once.

Every key belongs to one connection of one process, and a connection has one unit (a command, a transaction, a script)
in flight: the log of a process is therefore the order of what happened to its keys.  Keys that all of them write are
written with commutative commands only.  A key with a write whose reply never came is not written again.

    with Load(env_file, folder) as load:
        load.wait_for(5000)
        ...  # move the application
        load.stop()
    assert check(replay(folder), url_of_the_serving_side) == []
    assert overlaps(folder) == []
    pauses = [gap.seconds for gap in switch_gaps(folder)]
"""
