"""What all pages share: the ledger, who is signed in, templates, and how one page is asked for and answered."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from integrity.errors import ConfigurationError, GreenflyError, LedgerError, Refused, ServerError
from integrity.ledger import Ledger
from integrity.ledger.audit import ChainState
from integrity.ledger.models import FindingClass, FindingState, Run
from integrity.ledger.review_models import Role
from integrity.ledger.reviews import Separate
from integrity.ledger.tokens import TokenRecord, read_token
from integrity.settings import Settings
from integrity.version import __version__
from reports import display
from reports.facts import masked_text
from reports.html import event_time
from reports.review.actions import Actions
from reports.review.chain import ChainWatch
from reports.review.keys import key_view
from reports.review.sessions import Attempts, Session, Sessions

if TYPE_CHECKING:
    from jinja2 import Environment

FORM_BYTES: Final = 64 * 1024
_FIELDS: Final = 50
_COUNTED_FOR: Final = 30.0
"""Seconds for which counts over all findings of a run are good enough."""
_TIMES_WHAT_IT_TOOK: Final = 20
"""And so many times as long as the counting took, where that is more."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who is signed in."""

    token: TokenRecord
    session: Session

    @property
    def name(self) -> str:
        """Under which decisions are recorded."""
        return self.token.name

    def may(self, role: str) -> bool:
        """Whether they have this role, or one that includes it."""
        return self.token.role.includes(Role(role))


class Site:
    """The page as a whole; its handlers run in threads.

    :param cookie: name of the session's cookie.
    """

    def __init__(self, ledger: Ledger, settings: Settings, actions: Actions, cookie: str) -> None:
        self.ledger = ledger
        self.settings = settings.review
        self.separate = Separate(settings.review.separate_reviewer, settings.cutover.separate_approver)
        self.actions = actions
        self.cookie = cookie
        self.sessions = Sessions(self.settings.session_minutes * 60)
        self.attempts = Attempts(self.settings.sign_in_attempts)
        self.chain = ChainWatch(ledger.engine)
        self._lock = Lock()
        self._counts: dict[str, tuple[float, Mapping[tuple[FindingClass, FindingState], int]]] = {}

    def person_of(self, request: Request) -> Person | None:
        """Who asks; None where nobody is signed in, or the token does not hold any more.

        :raises LedgerError: the ledger's schema was changed since.
        """
        number = request.cookies.get(self.cookie)
        # A page that asks by itself how a run goes keeps nobody signed in.
        use = not request.url.path.endswith("/progress")
        session = self.sessions.find(number, use=use) if number else None
        if number is None or session is None:
            return None
        token = read_token(self.ledger.engine, session.token_id)
        if token is None or not token.holds(datetime.now(UTC)):
            self.sessions.end(number)
            return None
        return Person(token, session)

    def finding_counts(self, run: Run) -> Mapping[tuple[FindingClass, FindingState], int]:
        """How many findings there are by class and state, counted a while ago at most."""
        began = monotonic()
        with self._lock:
            counted = self._counts.get(run.id)
        if counted is not None and began < counted[0]:
            return counted[1]
        counts = self.ledger.finding_counts(run.id)
        now = monotonic()
        with self._lock:
            if len(self._counts) > 1_000:
                self._counts.clear()
            until = now + max(_COUNTED_FOR, _TIMES_WHAT_IT_TOOK * (now - began))
            self._counts[run.id] = (until, counts)
        return counts


@dataclass(frozen=True, slots=True)
class Page:
    """One question of a browser."""

    site: Site
    request: Request
    person: Person | None
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self.site.ledger

    @property
    def who(self) -> Person:
        """Who asks, on a page that only those see who are signed in."""
        if self.person is None:
            raise TypeError("this page is shown to nobody")
        return self.person

    def asked(self, name: str) -> str:
        """A value of the address's query."""
        return self.request.query_params.get(name, "").strip()

    def run(self) -> Run:
        """The run that the address names.

        :raises NotThere: no such run.
        """
        wanted = str(self.request.path_params["run"])
        try:
            run = self.ledger.find_run(wanted)
        except ConfigurationError as error:
            raise NotThere(error.problem) from error
        if run.id != wanted:
            raise NotThere(f"The ledger holds no run {wanted!r}.")
        return run

    def render(self, template: str, status: int = 200, **values: object) -> Response:
        """The page as HTML."""
        said = not_done = None
        if self.person is not None:
            session = self.person.session
            said, session.said = session.said, None
            not_done, session.problem = session.problem, None
        text = (
            _environment()
            .get_template(template)
            .render(
                person=self.person,
                csrf=self.person.session.csrf if self.person is not None else "",
                said=said,
                not_done=not_done,
                broken=self._broken_chain(),
                now=datetime.now(UTC),
                version=__version__,
                **values,
            )
        )
        return HTMLResponse(text, status)

    def _broken_chain(self) -> ChainState | None:
        if self.person is None:
            return None
        try:
            return self.site.chain.broken()
        except LedgerError:
            return None  # This page may be the one that tells what is wrong with the ledger.

    def fragment(self, template: str, **values: object) -> Response:
        """A part of a page as HTML."""
        return HTMLResponse(_environment().get_template(template).render(now=datetime.now(UTC), **values))

    def go(self, address: str, said: str | None = None) -> Response:
        """On to another page, which tells once what was done."""
        if said is not None and self.person is not None:
            self.person.session.said = said
        return RedirectResponse(address, 303)


class NotThere(Exception):
    """What the address names is not in the ledger."""


Handler = Callable[[Page], Response]


def page(
    site: Site, path: str, handler: Handler, *, role: Role | None = Role.VIEWER, changes: bool = False
) -> Route:
    """A route to *handler*, for those with this role; None is everybody.

    :param changes: it is asked for by a form, which must prove that it came from a page of ours.
    """

    async def answer(request: Request) -> Response:
        form: Mapping[str, str] = {}
        if changes:
            try:
                read = await _read_form(request)
            except ClientDisconnect:
                return Response(status_code=400)
            if read is None:
                return HTMLResponse("The form is too large or not one of this page.\n", 413)
            form = read
        return await run_in_threadpool(_answer, site, request, handler, role, form, changes=changes)

    return Route(path, answer, methods=["POST"] if changes else ["GET"])


def _answer(
    site: Site,
    request: Request,
    handler: Handler,
    role: Role | None,
    form: Mapping[str, str],
    *,
    changes: bool,
) -> Response:
    person = None
    try:
        person = site.person_of(request)
        asked = Page(site, request, person, form)
        if role is not None and person is None:
            return RedirectResponse("/sign-in", 303)
        if role is not None and person is not None:
            if not person.may(role):
                return problem(
                    asked, 403, f"That takes the role {role.value}; yours is {person.token.role.value}."
                )
            if changes and not hmac.compare_digest(
                form.get("csrf", "").encode("utf-8", "replace"), person.session.csrf.encode()
            ):
                return problem(asked, 403, "The form is not one of this session. Load the page again.")
        return handler(asked)
    except NotThere as error:
        return problem(Page(site, request, person), 404, str(error))
    except GreenflyError as error:
        if changes and person is not None:
            # Back to the form, which is still filled in, with the reason above it.
            person.session.problem = masked_text(str(error))
            return RedirectResponse(_where_from(request), 303)
        return problem(Page(site, request, person), _status(error), error.problem, error.remedy)


def _where_from(request: Request) -> str:
    """The page of ours whose form this was."""
    try:
        came = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return "/"
    if came.netloc != request.headers.get("host") or not came.path.startswith("/") or came.path[1:2] == "/":
        return "/"
    # Both values of a finding are shown in answer to a form; that page cannot be asked for.
    return came.path.removesuffix("/values") + (f"?{came.query}" if came.query else "")


def problem(asked: Page, status: int, text: str, remedy: str = "") -> Response:
    """What went wrong, as a page."""
    return asked.render(
        "problem.html.jinja", status, text=masked_text(text), remedy=masked_text(remedy), title="Not done"
    )


def _status(error: GreenflyError) -> int:
    match error:
        case ConfigurationError():
            return 400
        case Refused():
            return 409
        case LedgerError():
            return 503
        case ServerError():
            return 502
        case _:
            return 500


async def _read_form(request: Request) -> dict[str, str] | None:
    """The fields of a form, each once; None where it is too large, or none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return None
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES:
            return None
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS, errors="backslashreplace"
        )
    except ValueError:
        return None
    return dict(pairs)


@cache
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("reports.review"), PackageLoader("reports")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=display.count,
        size=display.size,
        duration=display.duration,
        moment=display.moment,
        expiry=display.expiry,
        rate=display.rate,
        plain=masked_text,
        shown_key=key_view,
        event_time=event_time,
    )
    environment.globals.update(UNKNOWN=display.UNKNOWN, counted=display.counted, percent=display.percent)
    return environment
