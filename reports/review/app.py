"""The application: every address of the page, and who may ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from integrity.ledger import Ledger
from integrity.ledger.review_models import Role
from integrity.review_settings import ReviewSettings
from integrity.settings import Settings
from reports.review import finding_pages, live, run_list, run_page, sign_in
from reports.review.actions import Actions
from reports.review.protection import Protection
from reports.review.site import Site, page

_FOLDER: Final = Path(__file__).parent
_FILES: Final = {
    "report.css": (_FOLDER.parent / "templates" / "report.css", "text/css; charset=utf-8"),
    "review.css": (_FOLDER / "static" / "review.css", "text/css; charset=utf-8"),
    "review.js": (_FOLDER / "static" / "review.js", "text/javascript; charset=utf-8"),
    "icon.svg": (_FOLDER / "static" / "icon.svg", "image/svg+xml"),
}


def build_app(ledger: Ledger, settings: Settings, actions: Actions, port: int) -> ASGIApp:
    """The review page over *ledger*.

    :param port: on which it is served; two pages on one machine would else end each other's sessions.
    """
    review = settings.review
    cookie = "__Host-greenfly-review" if review.tls else f"greenfly-review-{port}"
    site = Site(ledger, settings, actions, cookie)
    application = Starlette(routes=list(_routes(site)))
    return Protection(application, _names(review), tls=review.tls)


def _names(settings: ReviewSettings) -> Iterable[str]:
    yield settings.host
    yield from settings.names
    if ip_address(settings.host).is_loopback:
        yield from ("localhost", "127.0.0.1", "::1")


def _routes(site: Site) -> Iterable[Route]:
    run, finding = "/runs/{run:str}", "/runs/{run:str}/findings/{finding:int}"
    reviewer, operator = Role.REVIEWER, Role.OPERATOR
    yield Route("/static/{name:str}", _file)
    yield page(site, "/sign-in", sign_in.show, role=None)
    yield page(site, "/sign-in", sign_in.sign_in, role=None, changes=True)
    yield page(site, "/sign-out", sign_in.sign_out, changes=True)
    yield page(site, "/", run_list.show)
    yield page(site, run, run_page.show)
    yield page(site, f"{run}/progress", live.show)
    yield page(site, f"{run}/report", run_page.report)
    yield page(site, f"{run}/decide", run_page.take_decision, role=reviewer, changes=True)
    yield page(site, f"{run}/waive", finding_pages.waive_many, role=reviewer, changes=True)
    yield page(site, f"{run}/rollback", run_page.ask_rollback, role=operator)
    yield page(site, f"{run}/rollback", run_page.request_rollback, role=operator, changes=True)
    yield page(site, f"{run}/findings", finding_pages.show_list)
    yield page(site, finding, finding_pages.show_one)
    yield page(site, f"{finding}/values", finding_pages.compare, changes=True)
    yield page(site, f"{finding}/waive", finding_pages.waive_one, role=reviewer, changes=True)
    yield page(site, "/waivers", finding_pages.show_waivers)
    yield page(site, "/waivers/{waiver:int}/withdraw", finding_pages.withdraw, role=reviewer, changes=True)


def _file(request: Request) -> Response:
    known = _FILES.get(request.path_params["name"])
    if known is None:
        return PlainTextResponse("There is no such file.\n", 404)
    path, kind = known
    return Response(path.read_bytes(), media_type=kind)
