"""Kubernetes' API server, over its own REST interface.

What it says in words is never repeated: an admission webhook, say, may quote a value.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from integrity.errors import ConfigurationError
from integrity.switch.environment import EnvironmentFailed
from integrity.switch.kubernetes_objects import ApiObject

_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""More than any object can have; etcd takes 1.5 MiB."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_REASON: Final = re.compile(r"[A-Za-z]{1,60}")
Object = TypeVar("Object", bound=ApiObject)


class ApiUnavailable(EnvironmentFailed):
    """No answer, or one that says to come again later; whether a patch was applied is not known."""


class Conflict(ApiUnavailable):
    """The object was changed meanwhile: it is no longer at the resource version that a patch names."""


class ApiServer:
    """One API server; each request is a connection of its own, with the token as it is in its file then.

    :param timeout: seconds to wait for the connection and for each piece of the answer.
    :raises ConfigurationError: the CA file cannot be used.
    """

    def __init__(self, url: str, *, token_file: Path, ca_file: Path | None, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigurationError(
                "switch.kubernetes.server is no https:// URL.", "Write https://host:6443."
            )
        self._host, self._port, self._base = parts.hostname, parts.port or 443, parts.path.rstrip("/")
        self._token_file = token_file
        self._timeout = timeout
        try:
            self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"The CA file {ca_file} cannot be used ({error.strerror or error}).",
                "Set switch.kubernetes.ca_file to the cluster's CA certificates (PEM).",
            ) from error

    @property
    def where(self) -> str:
        """Host and port."""
        return f"{self._host}:{self._port}"

    def get(self, path: str, what: str, kind: type[Object]) -> Object:
        """The object at *path*; *what* is its name for people.

        :raises EnvironmentFailed: refused, or not understood; :class:`ApiUnavailable` where it may be tried again.
        """
        return self._parse(self._request("GET", path, what, None), what, kind)

    def patch(
        self, path: str, what: str, body: Mapping[str, object], kind: type[Object], *, dry_run: bool = False
    ) -> Object:
        """Merge *body* into the object at *path* (RFC 7396), and return what it is then.

        :param dry_run: everything is checked, nothing is kept.

        :raises Conflict: the object is at another resource version than *body* names.
        :raises EnvironmentFailed: refused, or not understood; :class:`ApiUnavailable` where it may be tried again.
        """
        query = "?dryRun=All" if dry_run else ""
        return self._parse(self._request("PATCH", path + query, what, json.dumps(body).encode()), what, kind)

    def _parse(self, answer: bytes, what: str, kind: type[Object]) -> Object:
        try:
            return kind.model_validate_json(answer)
        except ValidationError as error:
            # Its text quotes the input, which may be a secret.
            places = sorted(
                {".".join(str(part) for part in e["loc"]) for e in error.errors(include_input=False)}
            )
            raise EnvironmentFailed(
                f"The API server {self.where} answered with {what} in a form that is not understood "
                f"({', '.join(places[:3]) or 'no JSON'}).",
                "Check switch.kubernetes.server.",
            ) from None

    def _request(self, method: Literal["GET", "PATCH"], path: str, what: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=self._tls
        )
        try:
            connection.request(method, self._base + path, body, headers)
            response = connection.getresponse()
            answer = response.read(_ANSWER_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise EnvironmentFailed(
                f"The certificate of the API server {self.where} is not trusted ({error.verify_message}).",
                "Set switch.kubernetes.ca_file to the cluster's CA, and use a host name that the certificate carries.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            # An HTTPException may quote what it was sent.
            detail = (error.strerror or str(error)) if isinstance(error, OSError) else "no HTTP"
            raise ApiUnavailable(
                f"The API server {self.where} gave no answer about {what} ({detail}).",
                "Check switch.kubernetes.server and the network. Repeating this does no harm.",
            ) from error
        finally:
            connection.close()
        if response.status in (200, 201):
            return answer
        raise self._refusal(method, what, response.status, answer)

    def _token(self) -> str:
        try:
            token = self._token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            detail = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise EnvironmentFailed(
                f"The token file {self._token_file} cannot be read ({detail}).",
                "Set switch.kubernetes.token_file to a file that holds the token of a service account.",
            ) from None
        if not _TOKEN.fullmatch(token):
            raise EnvironmentFailed(
                f"The token file {self._token_file} holds no token.", "It is one line without spaces."
            )
        return token

    def _refusal(self, method: str, what: str, status: int, answer: bytes) -> EnvironmentFailed:
        verb = method.lower()
        match status:
            case 409:
                return Conflict(f"{what} was changed at the same moment.", "Repeating this does no harm.")
            case 401:
                return EnvironmentFailed(
                    f"The API server {self.where} does not accept the token.",
                    "It may have expired: `kubectl create token NAME` makes one for switch.kubernetes.token_file.",
                )
            case 403:
                return EnvironmentFailed(
                    f"The service account may not {verb} {what}.",
                    "Give it a Role with the verbs get and patch on it; docs/environment-switch.md shows one.",
                )
            case 404:
                return EnvironmentFailed(
                    f"{what} does not exist on {self.where}.",
                    "Check its name and switch.kubernetes.namespace.",
                )
            case 429 | 500 | 502 | 503 | 504:
                return ApiUnavailable(
                    f"The API server {self.where} could not {verb} {what} (status {status}).",
                    "Look at its health. Repeating this does no harm.",
                )
            case _:
                return EnvironmentFailed(
                    f"The API server {self.where} refused to {verb} {what} (status {status}{_reason(answer)}).",
                    "Look at the object, at admission webhooks, and at switch.kubernetes.server.",
                )


class _Status(ApiObject):
    reason: str = ""


def _reason(answer: bytes) -> str:
    """The one word that a refusal gives as its reason."""
    try:
        reason = _Status.model_validate_json(answer).reason
    except ValidationError:
        return ""
    return f", {reason}" if _REASON.fullmatch(reason) else ""
