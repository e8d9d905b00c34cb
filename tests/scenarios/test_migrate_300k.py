"""The everyday case: a whole application moves, and an independent oracle agrees that nothing was lost."""

from __future__ import annotations

import os

import pytest

from greenfly.demo.dataset import fill
from tests.cli import ASSESS_VARIABLE, Greenfly
from tests.oracle import compare
from tests.raw import Raw, as_int
from tests.servers import Store


def _move_and_ask_the_oracle(
    blue: Store, green: Store, greenfly: Greenfly, keys: int, timeout: float
) -> None:
    written = fill(blue.url, keys=keys, seed=300)
    assert sum(sum(families.values()) for families in written.values()) == keys

    run = greenfly(
        *("migrate", "--source", blue.url, "--target", green.url, "--json"),
        timeout=timeout,
        env={ASSESS_VARIABLE: "true"},
    )

    assert (run.exit_code, run.at("verdict"), run.at("state")) == (0, "PASS", "finished"), run.stderr
    for database, families in written.items():
        with Raw(green.url, database) as target:
            assert as_int(target("DBSIZE")) == sum(families.values())
    assert compare(blue.url, green.url) == []


def test_20_000_keys_arrive_whole(blue: Store, green: Store, greenfly: Greenfly) -> None:
    _move_and_ask_the_oracle(blue, green, greenfly, keys=20_000, timeout=120)


@pytest.mark.skipif(os.environ.get("GREENFLY_TEST_BIG") != "1", reason="GREENFLY_TEST_BIG=1 runs it")
@pytest.mark.dragonfly
def test_300_000_keys_in_three_databases_arrive_whole(
    blue: Store, green_dragonfly: Store, greenfly: Greenfly
) -> None:
    _move_and_ask_the_oracle(blue, green_dragonfly, greenfly, keys=300_000, timeout=400)
