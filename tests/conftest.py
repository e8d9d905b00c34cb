"""Servers, a clean environment, and the command line for every test.

``blue`` is the source, ``green`` the target: a second Redis and, where there is one, a Dragonfly.  Both are empty when
a test begins.  A test that needs a server with its own options takes ``start_redis`` or ``start_dragonfly``.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Protocol

import pytest
from redis.exceptions import ResponseError

from greenfly.demo import servers as demo_servers
from greenfly.demo.servers import RunningServer, TlsPair, find_dragonfly, find_redis_server
from tests.cli import Greenfly
from tests.ledger import (  # noqa: F401  (fixtures)
    PROVISION,
    fresh_ledger_url,
    ledger_url,
    own_postgres,
    postgres,
    postgres_ledger,
    provide_postgres,
    sqlite_template,
)
from tests.raw import Raw, as_bytes, as_list
from tests.servers import URL_VARIABLES, Provision, Store, provide
from tests.tls import make_tls_pair

_KEPT: Final = ("GREENFLY_TEST_", "GREENFLY_REQUIRE_")
_BOTH_TARGETS: Final = frozenset({"test_copy_policies.py", "test_verify.py"})
"""Files about what the engines do differently when a key is in the way."""
_LONGEST: Final = (
    "test_scheduled.py",
    "test_live_kills.py",
    "test_live.py",
    "test_workers.py",
    "test_lost_worker.py",
    "test_sync_faults.py",
    "test_cluster.py",
    "test_cutover_no_way_back.py",
    "test_cutover_undo.py",
    "test_many_kills.py",
    "test_distributed.py",
    "test_reconnect.py",
    "test_review_browser.py",
)
"""Files that take half a minute and more: one of them that begins last would be waited for by all processes."""
_PROVISIONS: Final = pytest.StashKey[dict[str, Provision]]()
_PREFECT_HOME: Final = pytest.StashKey[str]()


class StartServer(Protocol):
    """Starts a server with options of its own; it is stopped with the test."""

    def __call__(self, *extra: str, password: str | None = None, tls: TlsPair | None = None) -> Store: ...


class StartDragonfly(Protocol):
    """Starts a Dragonfly with options of its own; it is stopped with the test."""

    def __call__(self, *extra: str, password: str | None = None) -> Store: ...


# -- the run ---------------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before anything reads it, and find the servers."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background like that, and every process of a test would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name.startswith("PREFECT_") or (name.startswith("GREENFLY_") and not name.startswith(_KEPT)):
            del os.environ[name]
    config.stash[_PREFECT_HOME] = tempfile.mkdtemp(prefix="greenfly-prefect-")
    os.environ |= {
        "PREFECT_HOME": config.stash[_PREFECT_HOME],
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "DO_NOT_TRACK": "1",
    }
    provisions = {
        "blue": provide("blue", "redis"),
        "green redis": provide("green redis", "redis"),
        "green dragonfly": provide("green dragonfly", "dragonfly"),
    }
    config.stash[_PROVISIONS] = provisions
    config.stash[PROVISION] = provide_postgres()
    needed = []
    if os.environ.get("GREENFLY_REQUIRE_SERVERS") == "1":
        needed += ["blue", "green redis"]
    if os.environ.get("GREENFLY_REQUIRE_DRAGONFLY") == "1":
        needed.append("green dragonfly")
    missing = [f"{name}: {provisions[name].found}" for name in needed if provisions[name].start is None]
    if missing:
        raise pytest.UsageError("Servers that must be there are not. " + "; ".join(missing))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Three processes, each with servers of its own; one where the servers are given, because tests empty them.

    Three on two processors, because tests wait a good part of their time; PYTEST_XDIST_AUTO_NUM_WORKERS says otherwise.
    """
    if any(name in os.environ for name in URL_VARIABLES.values()):
        return 1
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else 3


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first.  Where there is a Dragonfly, that is the target; a Redis beside it only if asked for.

    Files are handed out whole and in this order; a few, about what differs, keep both targets.
    """
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    here = config.stash[_PROVISIONS]["green dragonfly"].start is not None
    if not here or os.environ.get("GREENFLY_TEST_BOTH_TARGETS") == "1":
        return
    skip = pytest.mark.skip(reason="GREENFLY_TEST_BOTH_TARGETS=1 runs it against a Redis as the target too")
    for item in items:
        callspec = getattr(item, "callspec", None)
        chosen = callspec.params.get("green") if callspec is not None else None
        if chosen == "redis" and item.path.name not in _BOTH_TARGETS:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What modules and collected tests are made of stays to the end, and need not be looked through again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove Prefect's folder."""
    home = config.stash.get(_PREFECT_HOME, None)
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which servers will run."""
    found = [f"{p.name}: {p.found}" for p in config.stash[_PROVISIONS].values()]
    return [*found, f"postgresql: {config.stash[PROVISION].found}"]


# -- servers ---------------------------------------------------------------------------------------------------------


def _serve(config: pytest.Config, name: str) -> Iterator[RunningServer]:
    provision = config.stash[_PROVISIONS][name]
    if provision.start is None:
        pytest.skip(f"{name}: {provision.found}")
    with provision.start() as server:
        yield server


@pytest.fixture(scope="session")
def redis_blue(pytestconfig: pytest.Config) -> Iterator[RunningServer]:
    """The source server of the whole run."""
    yield from _serve(pytestconfig, "blue")


@pytest.fixture(scope="session")
def redis_green(pytestconfig: pytest.Config) -> Iterator[RunningServer]:
    """The Redis that is a target, of the whole run."""
    yield from _serve(pytestconfig, "green redis")


@pytest.fixture(scope="session")
def dragonfly_green(pytestconfig: pytest.Config) -> Iterator[RunningServer]:
    """The Dragonfly that is a target, of the whole run."""
    yield from _serve(pytestconfig, "green dragonfly")


def _empty(server: RunningServer) -> Iterator[Store]:
    with Store(server.url, server.engine, server.version) as store:
        _give_rights_back(store)
        store.client.flushall()
        # FLUSHALL leaves function libraries, and an assessment finds them; 6.2 knows none.
        with suppress(ResponseError):
            store.client.function_flush()
        # An assessment asks which commands applications have used, and means those of this test alone.
        store.client.config_resetstat()
        yield store


def _give_rights_back(store: Store) -> None:
    """A rollback leaves green fenced, which is right, and the next test wants it open."""
    with Raw(store.url) as raw:
        names = [as_bytes(name) for name in as_list(raw("ACL", "USERS"))]
        fenced = [name for name in names if name.startswith(b"greenfly-")]
        if fenced:
            raw("ACL", "SETUSER", "default", "+@all")
            raw("ACL", "DELUSER", *fenced)


@pytest.fixture
def blue(redis_blue: RunningServer) -> Iterator[Store]:
    """The source, empty."""
    yield from _empty(redis_blue)


@pytest.fixture
def green_redis(redis_green: RunningServer) -> Iterator[Store]:
    """A Redis as the target, empty."""
    yield from _empty(redis_green)


@pytest.fixture
def green_dragonfly(dragonfly_green: RunningServer) -> Iterator[Store]:
    """A Dragonfly as the target, empty."""
    yield from _empty(dragonfly_green)


@pytest.fixture(params=["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def green(request: pytest.FixtureRequest) -> Store:
    """The target, empty: every test that takes it runs against both engines."""
    store = request.getfixturevalue(f"green_{request.param}")
    assert isinstance(store, Store)
    return store


@pytest.fixture
def start_redis() -> Iterator[StartServer]:
    """Start Redis servers with options of their own."""
    with ExitStack() as stack:

        def start(*extra: str, password: str | None = None, tls: TlsPair | None = None) -> Store:
            program = _program(find_redis_server, "redis-server")
            server = stack.enter_context(
                demo_servers.start_redis(program, *extra, password=password, tls=tls)
            )
            ca_file = tls.ca_file if tls else None
            return stack.enter_context(Store(server.url, server.engine, server.version, ca_file, server))

        yield start


@pytest.fixture
def start_dragonfly() -> Iterator[StartDragonfly]:
    """Start Dragonfly servers with options of their own."""
    with ExitStack() as stack:

        def start(*extra: str, password: str | None = None) -> Store:
            program = _program(find_dragonfly, "dragonfly")
            server = stack.enter_context(demo_servers.start_dragonfly(program, *extra, password=password))
            return stack.enter_context(Store(server.url, server.engine, server.version, None, server))

        yield start


def _program(find: Callable[[], Path | None], name: str) -> Path:
    program = find()
    if program is None:
        pytest.skip(f"no {name} on PATH, and this test needs one with options of its own")
    return program


@pytest.fixture(scope="session")
def tls_pair(tmp_path_factory: pytest.TempPathFactory) -> TlsPair:
    """A certificate for 127.0.0.1 and the authority that signed it."""
    return make_tls_pair(tmp_path_factory.mktemp("tls"))


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where the ledger, snapshots and reports of this test go."""
    return tmp_path / "state"


@pytest.fixture
def greenfly(state_dir: Path, tmp_path: Path) -> Iterator[Greenfly]:
    """The command line; see :class:`tests.cli.Greenfly`."""
    folder = tmp_path / "work"
    folder.mkdir()
    runner = Greenfly(state_dir, folder)
    yield runner
    runner.close()
