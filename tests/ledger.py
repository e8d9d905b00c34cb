"""Where the tests keep ledgers: SQLite in the state folder, and databases of one PostgreSQL.

PostgreSQL is looked for in this order: a URL in the environment, programs on PATH or where Debian puts them, a
container; else the tests that need it are skipped with the reason.  ``GREENFLY_REQUIRE_POSTGRES=1`` turns that skip
into a refusal to run at all.  Whatever is found, every test gets a database of its own, which is dropped afterwards.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import OperationalError

from greenfly.demo.process import free_port
from greenfly.demo.servers import docker_answers
from integrity.address import mask_url
from integrity.ledger.approvals import append_decision
from integrity.ledger.database import SCHEMA_HEAD, writing
from integrity.ledger.migrate import known_revisions, migrate_on, upgrade
from integrity.ledger.schema import version_of
from integrity.ledger.tables import METADATA
from integrity.ledger.vocabulary import Decision

URL_VARIABLE: Final = "GREENFLY_TEST_POSTGRES_URL"
REQUIRED_VARIABLE: Final = "GREENFLY_REQUIRE_POSTGRES"
POSTGRES_IMAGE: Final = "postgres:17"
_DEBIAN: Final = Path("/usr/lib/postgresql")
_START_SECONDS: Final = 30.0
_EMPTY: Final = "; ".join(
    # Whoever still held a lock there would be a defect: better to hear of it than to wait.
    ["SET lock_timeout = '10s'"]
    + [f"DELETE FROM {table.name}" for table in reversed(METADATA.sorted_tables)]  # noqa: S608
    # Deleting and numbering from 1 again takes a tenth of what TRUNCATE does to so many files.
    + ["SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"]
)
# Another process can take a free port between our look and the server's bind.
_PORT_ATTEMPTS: Final = 3
_OPTIONS: Final = (
    "-c",
    "listen_addresses=127.0.0.1",
    "-c",
    "unix_socket_directories=",
    "-c",
    "shared_buffers=32MB",
    "-c",
    "max_connections=60",
)


class NotStarted(Exception):
    """A PostgreSQL that ended, or did not answer, instead of starting."""


@dataclass(slots=True)
class Postgres:
    """A PostgreSQL server whose user may create databases."""

    url: URL
    start_again: Callable[[], None] | None = None
    """Starts a server that :attr:`stop` ended; None where it was there before us."""
    stop: Callable[[], None] | None = None
    """Ends it at once, as a crash would."""
    _shared: Engine | None = None
    _made: list[str] = field(default_factory=list)

    def database(self, encoding: str = "UTF8") -> URL:
        """A new database, without a schema."""
        name = f"greenfly_{secrets.token_hex(6)}"
        self._run(
            self.url,
            f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        )
        self._made.append(name)
        return self.url.set(database=name)

    def emptied(self) -> URL:
        """The one database that tests share, with the newest schema and nothing in it."""
        if self._shared is None:
            self._shared = create_engine(self.database(), isolation_level="AUTOCOMMIT")
        with self._shared.connect() as connection:
            version = version_of(connection)
            if version is not None and version not in known_revisions():
                # A test made as if a newer version had been here.
                connection.exec_driver_sql(
                    f"UPDATE alembic_version SET version_num = '{SCHEMA_HEAD}'"  # noqa: S608
                )
                version = SCHEMA_HEAD
        if version != SCHEMA_HEAD:
            with self._shared.connect().execution_options(isolation_level="READ COMMITTED") as connection:
                migrate_on(connection, SCHEMA_HEAD)
                connection.commit()
        with self._shared.connect() as connection:
            connection.exec_driver_sql(_EMPTY)
        return self._shared.url

    def forget(self, url: URL) -> None:
        """Remove a database, whoever is connected to it."""
        self._run(self.url, f"DROP DATABASE IF EXISTS {url.database} WITH (FORCE)")

    def let_go(self) -> None:
        """Close the connections that are kept."""
        if self._shared is not None:
            self._shared.dispose()

    def close(self) -> None:
        """Remove what was made."""
        self.let_go()
        for name in self._made:
            self.forget(self.url.set(database=name))

    def _run(self, url: URL, *statements: str) -> None:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()


@dataclass(frozen=True, slots=True)
class PostgresProvision:
    """Where PostgreSQL comes from; :attr:`start` is None when it cannot be had."""

    found: str
    """For people, without a password."""
    start: Callable[[], AbstractContextManager[Postgres]] | None = None


def provide_postgres(environ: Mapping[str, str] = os.environ) -> PostgresProvision:
    """Look for PostgreSQL: URL, programs, container, nothing.

    :raises pytest.UsageError: there is none, and it is required.
    """
    if url := environ.get(URL_VARIABLE):
        return PostgresProvision(f"{URL_VARIABLE}={mask_url(url)}", lambda: _attached(url))
    folder = find_programs()
    if folder is not None:
        return PostgresProvision(f"{_version(folder)} ({folder})", lambda: started(folder))
    if docker_answers():
        return PostgresProvision(f"container {POSTGRES_IMAGE}", _container)
    found = f"none: {URL_VARIABLE} is not set, no initdb and postgres on PATH, no Docker that answers"
    if environ.get(REQUIRED_VARIABLE) == "1":
        raise pytest.UsageError(f"PostgreSQL must be there and is not. {found}")
    return PostgresProvision(found)


def find_programs() -> Path | None:
    """The folder that holds ``initdb`` and ``postgres``: on PATH, or Debian's newest."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    if _DEBIAN.is_dir():
        candidates += sorted(
            (folder / "bin" for folder in _DEBIAN.iterdir() if folder.name.isdigit()),
            key=lambda folder: -int(folder.parent.name),
        )
    return next((f for f in candidates if (f / "initdb").exists() and (f / "postgres").exists()), None)


def _version(folder: Path) -> str:
    done = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    return done.stdout.strip() or "PostgreSQL of unknown version"


@contextmanager
def _attached(url: str) -> Iterator[Postgres]:
    with closing(Postgres(make_url(url).set(drivername="postgresql+psycopg"))) as server:
        yield server


@contextmanager
def started(programs: Path, *, fsync: bool = False) -> Iterator[Postgres]:
    """A server in a temporary folder, on loopback; it will not run as root, so root starts it as somebody else.

    :param fsync: wait for the disk; what a crash of the machine would lose is no matter to a test.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="greenfly-postgres-")))
        user = _somebody_else()
        password = secrets.token_hex(12)
        secret = folder / "password"
        secret.write_text(password)
        if user is not None:
            for path in (folder, secret):
                os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        data = folder / "data"
        _initialise(programs, data, secret, user)
        running: list[subprocess.Popen[bytes]] = []

        def start(url: URL) -> None:
            running.append(_serve(programs, data, url.port or 0, user, fsync=fsync))
            _wait_until_ready(url, running[-1], folder)

        def stop() -> None:
            # SIGQUIT: PostgreSQL's immediate shutdown, after which it recovers as from a crash.
            running[-1].send_signal(signal.SIGQUIT)
            running[-1].wait(30)

        for attempt in range(_PORT_ATTEMPTS):
            url = URL.create(
                "postgresql+psycopg",
                "greenfly",
                password,
                "127.0.0.1",
                free_port(),
                "postgres",
                {"connect_timeout": "3"},
            )
            try:
                start(url)
                break
            except NotStarted:
                if attempt == _PORT_ATTEMPTS - 1:
                    raise
        server = Postgres(url, lambda: start(url), stop)
        try:
            yield server
        finally:
            server.let_go()
            if running[-1].poll() is None:
                stop()


def _somebody_else() -> str | None:
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _initialise(programs: Path, data: Path, secret: Path, user: str | None) -> None:
    subprocess.run(
        [
            programs / "initdb",
            f"--pgdata={data}",
            "--username=greenfly",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        timeout=60,
        user=user,
        cwd="/",
    )


def _serve(
    programs: Path, data: Path, port: int, user: str | None, *, fsync: bool
) -> subprocess.Popen[bytes]:
    with (data.parent / f"log-{secrets.token_hex(4)}").open("wb") as log:
        return subprocess.Popen(
            [
                programs / "postgres",
                "-D",
                data,
                "-p",
                str(port),
                "-c",
                f"fsync={'on' if fsync else 'off'}",
                *_OPTIONS,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=user,
            cwd="/",
            start_new_session=True,
        )


def _wait_until_ready(url: URL, process: subprocess.Popen[bytes], folder: Path) -> None:
    engine, until = create_engine(url), monotonic() + _START_SECONDS
    try:
        while True:
            try:
                engine.connect().close()
            except OperationalError:
                if process.poll() is not None or monotonic() > until:
                    logs = [log.read_text("utf-8", "replace") for log in folder.glob("log-*")]
                    raise NotStarted(f"PostgreSQL does not start: {logs}") from None
                sleep(0.05)
            else:
                return
    finally:
        engine.dispose()


@contextmanager
def _container() -> Iterator[Postgres]:
    """A server in a container, or a skip that tells why there is none."""
    # Imported here: most runs need neither, and both are slow to import.
    from docker.errors import DockerException
    from testcontainers.community.postgres import PostgresContainer

    with ExitStack() as stack:
        try:
            container = stack.enter_context(PostgresContainer(POSTGRES_IMAGE))
        except DockerException as error:
            pytest.skip(f"PostgreSQL: the container does not start: {error}")
        url = make_url(container.get_connection_url()).set(drivername="postgresql+psycopg")
        with closing(Postgres(url)) as server:
            yield server


def place(state_dir: Path, ledger_url: str | None) -> dict[str, object]:
    """The settings that put a ledger there."""
    return {"state_dir": state_dir} | ({"ledger_url": ledger_url} if ledger_url is not None else {})


# -- fixtures ----------------------------------------------------------------------------------------------------------

PROVISION: Final = pytest.StashKey[PostgresProvision]()


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """The PostgreSQL of the whole run."""
    provision = pytestconfig.stash[PROVISION]
    if provision.start is None:
        pytest.skip(f"PostgreSQL: {provision.found}")
    with provision.start() as server:
        yield server


@pytest.fixture
def postgres_ledger(postgres: Postgres) -> str:
    """The URL of an empty ledger on PostgreSQL."""
    return postgres.emptied().render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger in a file: copying it takes a hundredth of what making it does."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite3"
    engine = create_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> str | None:
    """Where the ledger of a test is: every test that takes it runs on both databases.

    None is the folder ``state`` of its ``tmp_path``.
    """
    if request.param == "sqlite":
        (tmp_path / "state").mkdir(mode=0o700)
        shutil.copyfile(sqlite_template, tmp_path / "state" / "ledger.sqlite3")
        return None
    url = request.getfixturevalue("postgres_ledger")
    assert isinstance(url, str)
    return url


@pytest.fixture
def fresh_ledger_url(request: pytest.FixtureRequest, ledger_url: str | None) -> str | None:
    """A database without a schema; None is any other folder."""
    if ledger_url is not None:
        postgres = request.getfixturevalue("postgres")
        assert isinstance(postgres, Postgres)
        return postgres.database().render_as_string(hide_password=False)
    return None


@pytest.fixture
def own_postgres(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """A PostgreSQL that a test may stop and start again."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL: no initdb and postgres on PATH, and this test ends its own")
    with started(programs) as server:
        yield server


def record_decision(
    engine: Engine, run_id: str, gate: str, decision: Decision, by: str, comment: str = ""
) -> None:
    """A decision about any gate of any run, whoever may take it."""
    with writing(engine) as connection:
        append_decision(connection, run_id, gate, decision, by, comment)
