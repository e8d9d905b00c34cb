"""Signing in and out."""

from __future__ import annotations

import math

from starlette.responses import RedirectResponse, Response

from integrity.ledger.tokens import find_token
from reports.review.site import Page


def show(page: Page) -> Response:
    """The form."""
    return page.go("/") if page.person is not None else page.render("sign_in.html.jinja", problem=None)


def sign_in(page: Page) -> Response:
    """Take the token; the browser gets a session instead of it."""
    site = page.site
    address = page.request.client.host if page.request.client is not None else ""
    wait = site.attempts.wait_seconds(address)
    if wait:
        refused = page.render("sign_in.html.jinja", 429, problem="Too many wrong tokens; wait a minute.")
        refused.headers["retry-after"] = str(math.ceil(wait))
        return refused
    token = find_token(page.ledger.engine, page.form.get("token", "").strip())
    if token is None:
        site.attempts.failed(address)
        page.ledger.record_event("review.sign-in-refused", {"address": address})
        return page.render("sign_in.html.jinja", 403, problem="That is no token that holds.")
    page.ledger.record_event(
        "review.signed-in",
        {"token": token.id, "by": token.name, "role": token.role.value, "address": address},
    )
    response = RedirectResponse("/", 303)
    response.set_cookie(
        site.cookie,
        site.sessions.open(token),
        path="/",
        secure=site.settings.tls,
        httponly=True,
        samesite="strict",
    )
    return response


def sign_out(page: Page) -> Response:
    """Forget the session."""
    number = page.request.cookies.get(page.site.cookie)
    if number is not None:
        page.site.sessions.end(number)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(
        page.site.cookie, path="/", secure=page.site.settings.tls, httponly=True, samesite="strict"
    )
    return response
