"""ACL users for Dragonfly: applied to a real one, they may do what they might on the real source, and never more."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from integrity.assess.acl_file import AclFile, make_acl_file
from integrity.assess.acl_translation import translate_users
from integrity.assess.command_table import CommandTable
from integrity.assess.model import Finding, Outcome, Severity
from integrity.assess.registry import find_check
from integrity.errors import ConfigurationError, Refused
from tests.assessing import subject_of
from tests.cli import Greenfly
from tests.conftest import StartDragonfly, StartServer
from tests.fencing import endpoint_of
from tests.inprocess import run_here
from tests.raw import Raw
from tests.servers import Store

pytestmark = pytest.mark.dragonfly

USERS = {
    "reader": ("~*", "-@all", "+@read"),
    "writer": ("~*", "+@read", "+@write", "-flushall", "+@connection", "+@transaction"),
    "most": ("~*", "+@all", "-@dangerous"),
    "no-admin": ("~*", "+@all", "-@admin"),
    "mixed": ("~*", "+@hyperloglog", "+@stream", "+@sortedset", "-zadd", "+get", "+config|get"),
    "single": ("~*", "+get", "+set", "+client|setname", "+client|getname"),
    "everything": ("~*", "+@all"),
    "nothing": ("~*", "-@all"),
}


@pytest.fixture
def source(start_redis: StartServer) -> Store:
    store = start_redis()
    with Raw(store.url) as raw:
        for name, rules in USERS.items():
            raw("ACL", "SETUSER", name, "on", f">{name}-secret", "&*", *rules)
    return store


@pytest.fixture
def load(
    start_dragonfly: StartDragonfly, green_dragonfly: Store, tmp_path: Path
) -> Callable[[Store], tuple[AclFile, Store]]:
    """A Dragonfly that was started with the users of a source."""

    def start(source: Store) -> tuple[AclFile, Store]:
        made = make_acl_file(endpoint_of(source.url), endpoint_of(green_dragonfly.url))
        path = tmp_path / "users.acl"
        made.write(path)
        return made, start_dragonfly(f"--aclfile={path}")

    return start


@contextmanager
def user(store: Store, name: str, password: str) -> Iterator[Redis]:
    client = Redis.from_url(
        store.url, username=name, password=password, single_connection_client=True, driver_info=None
    )
    try:
        yield client
    finally:
        client.close()


def allowed(raw: Raw, name: str, *command: str) -> bool:
    return raw.many([("ACL", "DRYRUN", name, *command)])[0] == b"OK"


def look(source: Store, target: Store) -> Finding:
    finding = find_check("users.acl").look(subject_of(source.url, target.url))
    json.dumps(dict(finding.evidence))
    return finding


def test_every_user_may_do_on_dragonfly_what_it_might_and_never_more(
    source: Store, load: Callable[[Store], tuple[AclFile, Store]]
) -> None:
    made, target = load(source)
    ours, theirs = (CommandTable.read(endpoint_of(store.url)) for store in (source, target))
    users = {user.name: user for user in made.users}
    compared = 0
    with Raw(source.url) as blue, Raw(target.url) as green:
        for name in USERS:
            for command, entry in ours.entries.items():
                if command not in theirs.entries:
                    continue
                subs = [sub for sub in entry.subcommands if sub != "help"]
                count = max(1, abs(entry.arity) - 1)
                arguments = [] if subs else ["1"] * (count + 8 * (command in {"geosearchstore", "eval"}))
                spelled = [(command, sub, *["1"] * 9) for sub in subs] or [(command, *arguments)]
                if any(_arity_refused(blue, name, *words) for words in spelled):
                    continue
                might = [allowed(blue, name, *words) for words in spelled]
                may = allowed(green, name, command)
                if all(might):
                    assert may or command in users[name].lost, (name, command)
                else:
                    assert not may, (name, command)
                if any(might) and not all(might):
                    assert command in users[name].partly, (name, command)
                compared += 1
    assert compared > len(USERS) * 120


def _arity_refused(raw: Raw, name: str, *command: str) -> bool:
    reply = raw.many([("ACL", "DRYRUN", name, *command)])[0]
    return isinstance(reply, ResponseError)


def test_users_log_in_with_the_same_passwords_and_keep_to_their_keys_and_channels(
    start_redis: StartServer, load: Callable[[Store], tuple[AclFile, Store]]
) -> None:
    source = start_redis()
    with Raw(source.url) as raw:
        rules = ("~App:*", "%R~shared:*", "&news:*", "+@read", "+@write", "-flushall", "+publish", "+ping")
        raw("ACL", "SETUSER", "shop", "on", ">first", ">second", *rules)
        raw("ACL", "SETUSER", "retired", "off", ">gone", "~*", "+@all")
    _, target = load(source)
    for store in (source, target):
        for password in ("first", "second"):
            with user(store, "shop", password) as shop:
                assert shop.set("App:1", "x")
                assert shop.get("shared:1") is None
                assert shop.publish("news:today", "x") == 0
                for refused in (
                    ("SET", "app:1", "x"),
                    ("SET", "shared:1", "x"),
                    ("GET", "other"),
                    ("PUBLISH", "other", "x"),
                    ("FLUSHALL",),
                ):
                    with pytest.raises(NoPermissionError):
                        shop.execute_command(*refused)  # type: ignore[no-untyped-call]
        for name, password in (("shop", "third"), ("retired", "gone")):
            with pytest.raises(AuthenticationError), user(store, name, password):
                pass


def test_users_that_are_there_with_the_same_rights_and_passwords_pass(
    start_redis: StartServer, load: Callable[[Store], tuple[AclFile, Store]], green_dragonfly: Store
) -> None:
    source = start_redis()
    assert look(source, green_dragonfly).outcome is Outcome.PASSED
    with Raw(source.url) as raw:
        raw("ACL", "SETUSER", "shop", "on", ">secret", "~shop:*", "&*", "+@all")
    missing = look(source, green_dragonfly)
    assert (missing.severity, missing.items) == (Severity.WARNING, ("shop",))
    _, target = load(source)
    assert look(source, target).outcome is Outcome.PASSED
    for change, told in (
        (("~other:*",), "keys"),
        (("-get",), "commands"),
        (("resetpass", ">changed"), "passwords"),
        (("off",), "state"),
    ):
        with Raw(source.url) as raw:
            raw("ACL", "SETUSER", "shop", *change)
        users = look(source, target).evidence["users"]
        assert isinstance(users, dict)
        assert told in users["shop"]["on_target"]


def test_what_dragonfly_cannot_say_is_left_out_and_told(
    start_redis: StartServer, green_dragonfly: Store
) -> None:
    source = start_redis()
    with Raw(source.url) as raw:
        raw("ACL", "SETUSER", "clever", "on", ">x", "~a:*", "+get", "(+set ~b:*)")
        raw("ACL", "SETUSER", "half", "on", ">x", "~*", "+get", "+config|get")
    blue, green = endpoint_of(source.url), endpoint_of(green_dragonfly.url)
    users = {user.name: user for user in translate_users(blue, green)}
    assert users["clever"].problems
    assert not users["clever"].exact
    assert users["half"].partly == {"config": ("get",)}
    assert "config" not in users["half"].rules
    generous = {user.name: user for user in translate_users(blue, green, grant_partly=True)}
    assert "+config" in generous["half"].rules.split()
    assert look(source, green_dragonfly).items == ("clever", "half")


def test_no_hash_is_in_evidence_reprs_or_masked_lines(source: Store, green_dragonfly: Store) -> None:
    made = make_acl_file(endpoint_of(source.url), endpoint_of(green_dragonfly.url))
    hashes = [hashlib.sha256(f"{name}-secret".encode()).hexdigest() for name in USERS]
    shown = "\n".join(
        [*made.masked, *made.notes, repr(made), json.dumps(dict(look(source, green_dragonfly).evidence))]
    )
    assert not any(value in shown or value[:12] in shown for value in hashes)
    lines = [user.line() for user in made.users]
    assert all(any(value in line for line in lines) for value in hashes)


def test_a_file_never_opens_a_default_user_that_was_closed(
    start_redis: StartServer, start_dragonfly: StartDragonfly, tmp_path: Path
) -> None:
    path = tmp_path / "users.acl"
    secret = hashlib.sha256(b"green-secret").hexdigest()
    path.write_text(f"USER default ON #{secret} ~* &* +@all\n")
    source, target = start_redis(), start_dragonfly(f"--aclfile={path}", password="green-secret")
    with Raw(source.url) as raw:
        raw("ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all")
    made = make_acl_file(endpoint_of(source.url), endpoint_of(target.url))
    path.unlink()
    made.write(path)
    with Raw(target.url) as raw:
        raw("ACL", "LOAD")
    without = target.url.replace(":green-secret@", "")
    assert without != target.url
    for password in ("green-secret", "anything"):
        with pytest.raises(AuthenticationError), user(replace(target, url=without), "default", password):
            pass
    with pytest.raises(AuthenticationError), Redis.from_url(without) as stranger:
        stranger.get("k")
    with user(replace(target, url=without), "shop", "secret") as shop:
        assert shop.ping()


def test_the_command_writes_a_file_for_its_owner_only_and_shows_no_hash(
    source: Store, green_dragonfly: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    path = tmp_path / "users.acl"
    arguments = (
        "assess",
        "acl",
        "--source",
        source.url,
        "--target",
        green_dragonfly.url,
        "--output",
        str(path),
    )
    done = run_here(greenfly, *arguments)
    assert done.exit_code == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    value = hashlib.sha256(b"reader-secret").hexdigest()
    assert value in path.read_text()
    assert value not in done.stdout + done.stderr
    assert "USER reader ON" in done.stdout
    assert run_here(greenfly, *arguments).exit_code == 2


def test_hashes_that_a_server_hides_are_not_written(
    green_dragonfly: Store, start_dragonfly: StartDragonfly
) -> None:
    source = start_dragonfly()
    with Raw(source.url) as raw:
        raw("ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all")
    with pytest.raises(Refused):
        make_acl_file(endpoint_of(source.url), endpoint_of(green_dragonfly.url))


def test_a_redis_target_takes_its_users_from_the_source_itself(
    source: Store, green_redis: Store, tmp_path: Path
) -> None:
    with pytest.raises(Refused):
        make_acl_file(endpoint_of(source.url), endpoint_of(green_redis.url))
    missing = look(source, green_redis)
    assert (missing.severity, set(missing.items)) == (Severity.WARNING, set(USERS))
    there = AclFile((), "USER default ON", ())
    there.write(tmp_path / "once")
    with pytest.raises(ConfigurationError):
        there.write(tmp_path / "once")
