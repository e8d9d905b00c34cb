"""The review page over HTTP: who sees what, what is recorded, what is refused."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import httpx
import pytest
import uvicorn
from sqlalchemy import text, update

from greenfly.demo.process import free_port
from greenfly.review_actions import actions_of
from integrity.errors import LedgerError
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.finding_waivers import read_finding_waivers
from integrity.ledger.models import FindingClass, FindingState, PhaseName, RunKind, RunState, Verdict
from integrity.ledger.opening import open_as_it_is
from integrity.ledger.review_models import ReviewToken, Role
from integrity.ledger.store import NewFinding
from integrity.ledger.tokens import add_token, read_tokens, revoke_token
from integrity.settings import Settings, load_settings
from reports.review import Actions, RollbackRequest, build_app
from reports.review.chain import ChainWatch
from tests.servers import Store

PATTERN: Final = {"class": "value", "pattern": "*", "days": "1", "why": "known"}
HOSTILE: Final = b"<script>alert(1)</script>'\"&\xff\xfe\x00\r\n\x1b[31m\xe2\x80\xae"


@dataclass(slots=True)
class Served:
    """The page on a port of its own, and what it asked others to do."""

    ledger: Ledger
    settings: Settings
    address: str
    asked: list[RollbackRequest] = field(default_factory=list)

    @contextmanager
    def browser(self, name: str, role: Role) -> Iterator[httpx.Client]:
        """Somebody who has signed in."""
        _, secret = add_token(self.ledger.engine, name, role, "test", 1)
        with httpx.Client(base_url=self.address, trust_env=False) as client:
            assert client.post("/sign-in", data={"token": secret}).headers["location"] == "/"
            yield client


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"state_dir": tmp_path, "review": {"sign_in_attempts": 3}}, environ={}).settings


@pytest.fixture
def serve(settings: Settings) -> Iterator[Callable[..., Served]]:
    with ExitStack() as stack:

        def start(actions: Actions | None = None, shown: Settings = settings) -> Served:
            ledger = stack.enter_context(closing(open_ledger(shown)))
            port = free_port()
            served = Served(ledger, shown, f"http://127.0.0.1:{port}")
            app = build_app(ledger, shown, actions or Actions(roll_back=served.asked.append), port)
            server = uvicorn.Server(
                uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off")
            )
            thread = threading.Thread(target=server.run)
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(10)

            stack.callback(stop)
            until = monotonic() + 10
            while not server.started and monotonic() < until:
                sleep(0.01)
            return served

        yield start


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


def record(
    ledger: Ledger,
    settings: Settings,
    findings: list[NewFinding],
    kind: RunKind = RunKind.VERIFY,
    blue: str = "redis://blue",
    green: str = "redis://green",
) -> str:
    run = ledger.start_run(kind, settings)
    run.identify(source={}, target={}, source_address=blue, target_address=green)
    run.phase_started(PhaseName.VERIFY, 1)
    run.add_findings(PhaseName.VERIFY, findings)
    run.finish(RunState.FINISHED, verdict=Verdict.FAIL, reason="it differs")
    return run.id


def csrf(client: httpx.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/").text)
    assert found is not None
    return found[1]


def post(client: httpx.Client, address: str, **fields: str) -> httpx.Response:
    return client.post(address, data={"csrf": csrf(client), **fields})


def visible(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


# -- who sees it -------------------------------------------------------------------------------------------------------


def test_nobody_sees_anything_without_signing_in(served: Served) -> None:
    run = record(served.ledger, served.settings, [])
    for address in ("/", "/waivers", f"/runs/{run}", f"/runs/{run}/findings", f"/runs/{run}/report"):
        answer = httpx.get(served.address + address)
        assert (answer.status_code, answer.headers["location"], answer.text) == (303, "/sign-in", "")
    assert (
        httpx.post(f"{served.address}/runs/{run}/decide", data={"a": "b"}).headers["location"] == "/sign-in"
    )


def test_every_answer_says_what_a_browser_may_do_with_it(served: Served) -> None:
    with served.browser("vera", Role.VIEWER) as client:
        answers = [client.get(path) for path in ("/", "/sign-in", "/static/review.js", "/nothing", "/runs/x")]
    assert [answer.status_code for answer in answers] == [200, 303, 200, 404, 404]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_session_is_kept_where_no_script_and_no_other_site_can_reach_it(served: Served) -> None:
    _, secret = add_token(served.ledger.engine, "vera", Role.VIEWER, "test", 1)
    cookie = httpx.post(f"{served.address}/sign-in", data={"token": secret}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert secret not in cookie


def test_wrong_tokens_are_recorded_and_have_to_wait(served: Served) -> None:
    answers = [httpx.post(f"{served.address}/sign-in", data={"token": "wrong"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [403, 403, 403, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    with served.ledger.engine.connect() as connection:
        kinds = connection.execute(text("SELECT kind FROM event")).scalars().all()
    assert kinds.count("review.sign-in-refused") == 3


def test_a_revoked_token_ends_its_sessions(served: Served) -> None:
    with served.browser("vera", Role.VIEWER) as client:
        assert client.get("/").status_code == 200
        revoke_token(served.ledger.engine, read_tokens(served.ledger.engine)[0].id, "ada")
        assert client.get("/").status_code == 303


def test_a_token_that_expires_ends_its_sessions(served: Served) -> None:
    with served.browser("vera", Role.VIEWER) as client:
        assert client.get("/").status_code == 200
        with writing(served.ledger.engine) as connection:
            connection.execute(update(ReviewToken).values(expires_at=datetime.now(UTC)))
        assert client.get("/").status_code == 303
        assert client.get("/").headers["location"] == "/sign-in"


def test_signing_out_ends_the_session(served: Served) -> None:
    with served.browser("vera", Role.VIEWER) as client:
        kept = dict(client.cookies)
        post(client, "/sign-out")
        assert httpx.get(served.address, cookies=kept).status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "192.0.2.1"])
def test_the_page_answers_under_its_own_names_alone(served: Served, host: str) -> None:
    assert httpx.get(served.address, headers={"host": host}).status_code == 421
    assert httpx.get(served.address, headers={"host": "localhost"}).status_code == 303


# -- forms -------------------------------------------------------------------------------------------------------------


def test_a_form_of_another_site_or_session_changes_nothing(served: Served) -> None:
    run = record(served.ledger, served.settings, [])
    fields = {"gate": "review", "decision": "approved"}
    address = f"/runs/{run}/decide"
    with served.browser("grace", Role.REVIEWER) as client, served.browser("other", Role.REVIEWER) as other:
        for token in ("", "x", csrf(other)):
            assert client.post(address, data=fields | {"csrf": token}).status_code == 403
        good = fields | {"csrf": csrf(client)}
        for headers in (
            {"origin": "https://evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"origin": "null"},
        ):
            assert client.post(address, data=good, headers=headers).status_code == 403
        assert client.post(address, json=good).status_code == 413
        assert client.post(address, content=b"a" * 70_000).status_code == 413
        assert client.get(address).status_code == 405
        assert "approval.approved" not in [event.kind for event in served.ledger.events(run)]

        assert client.post(address, data=good, headers={"origin": served.address}).status_code == 303
        assert [event.actor for event in served.ledger.events(run)][-1] == "grace"


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.VIEWER, set()),
        (Role.REVIEWER, {"decide", "waive"}),
        (Role.OPERATOR, {"decide", "waive", "rollback"}),
    ],
)
def test_each_role_may_do_its_part_and_no_more(served: Served, role: Role, allowed: set[str]) -> None:
    run = record(served.ledger, served.settings, [], RunKind.SYNC)
    fields = {
        "decide": {"gate": "review", "decision": "approved"},
        "waive": {"class": "value", "pattern": "*", "days": "1", "why": "known"},
        "rollback": {"confirmation": run, "reason": "it is slow"},
    }
    with served.browser("somebody", role) as client:
        for name, values in fields.items():
            answer = post(client, f"/runs/{run}/{name}", **values)
            assert answer.status_code == (303 if name in allowed else 403), name
        page = client.get(f"/runs/{run}").text
    assert ("/rollback" in page) is ("rollback" in allowed)
    assert ("/decide" in page) is ("decide" in allowed)
    assert len(served.asked) == ("rollback" in allowed)


def test_a_rollback_begins_only_where_the_run_was_typed(served: Served) -> None:
    run = record(served.ledger, served.settings, [], RunKind.SYNC)
    verify = record(served.ledger, served.settings, [])
    with served.browser("otto", Role.OPERATOR) as client:
        for confirmation, reason in ((run[:-1], "slow"), ("", "slow"), (run, " ")):
            post(client, f"/runs/{run}/rollback", confirmation=confirmation, reason=reason)
        assert post(client, f"/runs/{verify}/rollback", confirmation=verify, reason="x").status_code == 404
        assert served.asked == []

        post(client, f"/runs/{run}/rollback", confirmation=run, reason="slow", abandon="yes")
    assert served.asked == [RollbackRequest(run, "otto", "slow", True)]
    last = served.ledger.events(run)[-1]
    assert (last.kind, json.loads(last.payload)["by"]) == ("review.rollback-requested", "otto")


def test_a_refusal_is_told_on_the_page_that_asked(served: Served) -> None:
    run = record(served.ledger, served.settings, [])
    with served.browser(served.ledger.find_run(run).operator, Role.REVIEWER) as client:
        here = f"/runs/{run}"
        answer = client.post(
            f"{here}/decide",
            data={"csrf": csrf(client), "gate": "review", "decision": "approved"},
            headers={"referer": f"{served.address}{here}"},
        )
        assert answer.headers["location"] == here
        assert "requested this and cannot approve" in client.get(here).text
        assert "requested this and cannot approve" not in client.get(here).text


def test_a_refusal_leads_nowhere_else(served: Served) -> None:
    run = record(served.ledger, served.settings, [])
    elsewhere = (
        "https://evil.example/x",
        "//evil.example",
        "",
        "http://[",
        f"{served.address}//evil.example",
    )
    with served.browser("grace", Role.REVIEWER) as client:
        fields = {"csrf": csrf(client), "gate": "review", "decision": "break-glass"}
        for referer in elsewhere:
            answer = client.post(f"/runs/{run}/decide", data=fields, headers={"referer": referer})
            assert answer.headers["location"] == "/", referer


# -- findings ----------------------------------------------------------------------------------------------------------


def test_a_hostile_key_is_escaped_and_found_again(served: Served) -> None:
    huge = b"<b>" + b"\xff" * 10_000_000
    run = record(
        served.ledger,
        served.settings,
        [
            NewFinding(FindingClass.VALUE, 0, key, "<i>", detail="<script>x</script>\x00\x1b[31m")
            for key in (HOSTILE, b"", huge)
        ],
    )
    with served.browser("vera", Role.VIEWER) as client:
        listed = client.get(f"/runs/{run}/findings")
        assert len(listed.content) < 20_000
        pages = [listed.text]
        pages += [
            client.get(f"/runs/{run}/findings/{found.id}").text for found in served.ledger.findings(run)
        ]
        for html in pages:
            assert len(html) < 60_000
            assert "<script>x" not in html
            assert "<script>alert" not in html
            assert not set(html) & set(map(chr, range(32))) - {"\n"}
            assert "\u202e" not in html
        assert HOSTILE.hex() in pages[1]
        for form, key in (
            ("hex", HOSTILE.hex()),
            ("hex", HOSTILE[:20].hex() + "*"),
            ("pattern", "*alert(1)*"),
        ):
            found = client.get(f"/runs/{run}/findings", params={"key": key, "form": form}).text
            assert found.count('<tr><th scope="row">') == 1, form
        assert visible(found).count("&lt;script&gt;alert(1)") == 1


def test_filters_that_mean_nothing_are_refused_in_words(served: Served) -> None:
    run = record(served.ledger, served.settings, [])
    with served.browser("vera", Role.VIEWER) as client:
        for asked in (
            "class=<script>",
            "state=x",
            "form=x&key=a",
            "database=-1",
            "database=%D9%A3",
            "older=soon",
            "after=x",
            "key=%5C&form=text",
            "key=x&form=hex",
        ):
            answer = client.get(f"/runs/{run}/findings?{asked}")
            assert answer.status_code == 400, asked
            assert "<script>" not in answer.text.replace(
                '<script src="/static/review.js" defer></script>', ""
            )
        assert client.get(f"/runs/{run}/findings/99999999999999999999").status_code == 404
        assert client.get("/?kind=x").status_code == 400
        assert client.get("/?before=nothing").status_code == 400
        assert client.get("/?text=%00%ff%27%22").status_code == 200


def test_a_finding_of_another_run_is_not_shown(served: Served) -> None:
    first = record(served.ledger, served.settings, [NewFinding(FindingClass.VALUE, 0, b"a")])
    second = record(served.ledger, served.settings, [])
    number = served.ledger.findings(first)[0].id
    with served.browser("vera", Role.VIEWER) as client:
        assert client.get(f"/runs/{first}/findings/{number}").status_code == 200
        assert client.get(f"/runs/{second}/findings/{number}").status_code == 404


def test_a_waived_finding_is_marked_and_keeps_its_state(served: Served) -> None:
    run = record(served.ledger, served.settings, [NewFinding(FindingClass.VALUE, 0, b"a")])
    number = served.ledger.findings(run)[0].id
    with served.browser("grace", Role.REVIEWER) as client:
        post(client, f"/runs/{run}/findings/{number}/waive", days="2", why="the owner knows")
        assert "waived until" in client.get(f"/runs/{run}/findings").text
        post(client, "/waivers/1/withdraw")
        assert "waived until" not in client.get(f"/runs/{run}/findings").text
        assert "withdrawn by grace" in client.get("/waivers").text
        for most in ("0", "-1", "x", "9" * 12):
            told = post(client, f"/runs/{run}/waive", **PATTERN, most=most)
            assert told.status_code == 303
            assert "no number above 0" in client.get("/").text
        assert len(read_finding_waivers(served.ledger.engine)) == 1
        post(client, f"/runs/{run}/waive", **PATTERN, most="5")
        assert "It covers 1 open finding of the run" in client.get("/").text
    assert read_finding_waivers(served.ledger.engine)[1].most == 5
    assert served.ledger.findings(run)[0].state is FindingState.OPEN


# -- values ------------------------------------------------------------------------------------------------------------


def fill(store: Store, kind: str, secret: str) -> None:
    client = store.client
    match kind:
        case "string":
            client.set("k", secret)
        case "hash":
            client.hset("k", mapping={"same": "s", secret: "field", "field": secret})
        case "list":
            client.rpush("k", "same", secret)
        case "set":
            client.sadd("k", "same", secret)
        case "zset":
            client.zadd("k", {"same": 1, secret: 2})
        case _:
            client.xadd("k", {"field": secret}, id="1-1")


@pytest.mark.parametrize("kind", ["string", "hash", "list", "set", "zset", "stream"])
def test_values_are_masked_until_somebody_who_may_asks_for_them(
    serve: Callable[..., Served], settings: Settings, blue: Store, green_redis: Store, kind: str
) -> None:
    fill(blue, kind, "secret-of-blue")
    fill(green_redis, kind, "secret-of-green")
    urls = {"source": {"url": blue.url}, "target": {"url": green_redis.url}}
    both = load_settings({"state_dir": settings.state_dir, **urls}, environ={}).settings
    served = serve(actions_of(both, None, None), both)
    run = record(
        served.ledger, both, [NewFinding(FindingClass.VALUE, 0, b"k")], blue=blue.url, green=green_redis.url
    )
    address = f"/runs/{run}/findings/{served.ledger.findings(run)[0].id}/values"
    with served.browser("vera", Role.VIEWER) as client:
        masked = post(client, address)
        assert "They differ: <strong>value</strong>" in masked.text
        assert "secret-of" not in masked.text
        refused = post(client, address, reveal="yes")
        assert (refused.status_code, "secret-of" in client.get("/").text) == (303, False)
    with served.browser("grace", Role.REVIEWER) as client:
        shown = post(client, address, reveal="yes").text
    assert "secret-of-blue" in shown
    assert "secret-of-green" in shown
    revealed = [event for event in served.ledger.events(run) if event.kind == "review.values-revealed"]
    assert [json.loads(event.payload)["by"] for event in revealed] == ["grace"]
    database = settings.state_dir / "ledger.sqlite3"
    held = database.read_bytes() + database.with_name("ledger.sqlite3-wal").read_bytes()
    assert b"secret-of" not in held


def test_other_servers_than_those_of_the_run_are_not_read(
    serve: Callable[..., Served], settings: Settings, blue: Store, green_redis: Store
) -> None:
    urls = {"source": {"url": blue.url}, "target": {"url": green_redis.url}}
    both = load_settings({"state_dir": settings.state_dir, **urls}, environ={}).settings
    served = serve(actions_of(both, None, None), both)
    run = record(served.ledger, both, [NewFinding(FindingClass.VALUE, 0, b"k")])
    with served.browser("grace", Role.REVIEWER) as client:
        post(client, f"/runs/{run}/findings/1/values")
        assert "is configured for" in client.get("/").text


# -- the ledger --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0003", "9999"])
def test_a_ledger_of_another_schema_is_refused_by_name(settings: Settings, version: str) -> None:
    with closing(open_ledger(settings)) as ledger, writing(ledger.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
    with pytest.raises(LedgerError, match=version):
        open_as_it_is(settings)


def test_where_there_is_no_ledger_none_is_made(settings: Settings) -> None:
    with pytest.raises(LedgerError):
        open_as_it_is(settings)


def test_a_schema_that_changes_under_the_page_is_told(served: Served) -> None:
    with served.browser("vera", Role.VIEWER) as client:
        with writing(served.ledger.engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        answer = client.get("/")
    assert (answer.status_code, "9999" in answer.text) == (503, True)


def test_a_tampered_event_is_told_on_every_page_and_in_the_report(
    serve: Callable[..., Served], served: Served
) -> None:
    run = record(served.ledger, served.settings, [])
    seconds = [0.0]
    watch = ChainWatch(served.ledger.engine, lambda: seconds[0])
    assert watch.broken() is None
    with served.browser("vera", Role.VIEWER) as client:
        assert "tampered" not in client.get("/").text
    event = served.ledger.events(run)[0].sequence
    with writing(served.ledger.engine) as connection:
        connection.execute(text("UPDATE event SET payload = '{}' WHERE sequence = :s").bindparams(s=event))

    # The page of before looks again after a minute; one that is started now, at once.
    assert watch.broken() is None
    seconds[0] = 61.0
    found = watch.broken()
    assert found is not None
    assert found.broken_at == event
    with serve().browser("ada", Role.VIEWER) as client:
        for address in ("/", f"/runs/{run}", "/waivers"):
            assert f"broken at event {event} " in visible(client.get(address).text)
        report = visible(client.get(f"/runs/{run}/report").text)
    assert "its content was changed" in report
