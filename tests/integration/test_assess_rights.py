"""The rights that a run needs: tried without effect, and enough for a whole move."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from integrity.assess.acl_line import LIVE_PARTS, PASSWORD, USER, least_privilege
from integrity.assess.needed_rights import Side, rights
from integrity.assess.rights_probe import try_rights
from integrity.endpoint import Endpoint
from integrity.settings import EndpointSettings
from tests.conftest import StartServer
from tests.live import Live
from tests.matrix.cases import CASES
from tests.matrix.loader import load_cases
from tests.matrix.servers import Program, Server
from tests.raw import Raw, as_bytes, as_list
from tests.servers import Store

SETTINGS: Final = """
[big_values]
threshold_bytes = 262144
piece_bytes = 32768
piece_elements = 500
[sync]
group_seconds = 0.5
[cutover]
confirm = "environment"
confirm_seconds = 10
"""


def endpoint_of(side: Side, url: str) -> Endpoint:
    """As Greenfly reaches it."""
    return Endpoint.from_settings(side, EndpointSettings(url=SecretStr(url)))


def as_user(store: Store) -> str:
    """The URL with the user that the line makes."""
    return store.url.replace("://", f"://{USER}:{PASSWORD}@")


def allow(store: Store, side: Side) -> str:
    """Paste the line for a whole move; returns the URL of the user that it makes."""
    endpoint = endpoint_of(side, store.url)
    tried = try_rights(endpoint, endpoint.identify(), rights(side, LIVE_PARTS, store.engine))
    with Raw(store.url) as raw:
        raw(*shlex.split(least_privilege(side, LIVE_PARTS, store.engine, tried.known)))
    return as_user(store)


def refusals(store: Store) -> set[str]:
    """What the user was refused, by the server's own log."""
    with Raw(store.url) as raw:
        entries = [as_list(entry) for entry in as_list(raw("ACL", "LOG"))]
    found = set()
    for entry in entries:
        facts = dict(zip(entry[::2], entry[1::2], strict=True))
        if as_bytes(facts[b"username"]) == USER.encode():
            found.add(as_bytes(facts[b"object"]).decode().lower())
    return found


def test_a_user_with_exactly_that_line_can_move_there_and_back(
    start_redis: StartServer, green: Store, tmp_path: Path
) -> None:
    blue = start_redis()
    assert blue.server is not None
    shown = Server.of(Program(Path(), blue.engine, (7, 0)), blue.server)
    load_cases(shown, [case for case in CASES if not case.name.startswith(("module/", "expiry/10"))])
    source, target = allow(blue, "source"), allow(green, "target")
    with Live(tmp_path / "live", source, target, SETTINGS) as live:
        configuration = live.folder / "greenfly.toml"
        text = configuration.read_text().replace("[snapshot]\nenabled = false\n", "")
        configuration.write_text(
            text.replace('kind = "dotenv"\n', f'kind = "dotenv"\ngreen_url = "{green.url}"\n')
        )
        live.env_file.write_text(f"REDIS_URL={blue.url}\n")
        live.sync("--quiet")
        live.wait_until_clean()
        cutover = live.run("cutover", "--yes", "--json")
        assert cutover.code == 0, cutover.err + live.log()
        green.client.set("written on green", 1)
        time.sleep(1)
        rollback = live.run("rollback", "--yes", "--json")
        assert rollback.code == 0, rollback.err + live.log()
        assert blue.client.get("written on green") == b"1"
    print(refusals(blue), refusals(green))
