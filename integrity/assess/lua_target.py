"""What a server's Lua takes, asked of the server itself by three short scripts that touch no key.

Each leaves itself in the server's script cache; the applications' own scripts are compiled there, but neither run nor
kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from integrity.endpoint import Endpoint
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_COMPILE: Final = b"""local compile = rawget(_G, 'loadstring') or load
local compiled, why = compile(ARGV[1], '=script')
return compiled and '' or tostring(why)"""
_MISSING: Final = b"""local missing = {}
for _, name in ipairs(ARGV) do
  local root, leaf = string.match(name, '^([^.]+)%.?(.*)$')
  local found, value = pcall(function()
    local held = rawget(_G, root)
    if held ~= nil and leaf ~= '' then held = held[leaf] end
    return held
  end)
  if not found or value == nil then missing[#missing + 1] = name end
end
return missing"""
_UNDECLARED: Final = b"return redis.call('EXISTS', ARGV[1])"
_SHEBANG: Final = b"#!lua\nreturn 1"


class LuaTarget:
    """One server's Lua; ends with its ``with`` block."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._connection: Connection = endpoint.connect("assess")

    def __enter__(self) -> LuaTarget:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def refuses_undeclared_keys(self) -> bool | None:
        """Whether a script may not touch keys that it was not given; None where it cannot be tried.

        :raises PermissionRefused: scripts are not allowed.
        """
        reply = self._eval(_UNDECLARED, f"greenfly:probe:{secrets.token_hex(8)}")
        if not isinstance(reply, ErrorReply):
            return False
        return True if "undeclared" in str(reply) else None

    def takes_shebang(self) -> bool:
        """Whether a script may begin with ``#!lua`` (Redis 7.0 and later)."""
        reply = self._connection.exchange([pack(b"SCRIPT", b"LOAD", _SHEBANG)])[0]
        return not isinstance(reply, ErrorReply)

    def compile_error(self, script: str) -> str | None:
        """Why the server does not compile *script* (without a shebang); None where it does.

        :raises PermissionRefused: scripts are not allowed.
        """
        reply = self._eval(_COMPILE, script)
        if isinstance(reply, ErrorReply):
            raise self._connection.error_for(reply, "EVAL")
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
        return text or None

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of *names* (``math.pow``, ``loadstring``) that the server's Lua does not have."""
        if not names:
            return []
        reply = self._eval(_MISSING, *names)
        if isinstance(reply, ErrorReply):
            raise self._connection.error_for(reply, "EVAL")
        items = reply if isinstance(reply, list) else []
        return [item.decode("utf-8", "replace") for item in items if isinstance(item, bytes)]

    def _eval(self, script: bytes, *arguments: str) -> Reply:
        packed = pack(
            b"EVAL", script, b"0", *(argument.encode("utf-8", "surrogateescape") for argument in arguments)
        )
        reply = self._connection.exchange([packed])[0]
        if isinstance(reply, ErrorReply) and str(reply).startswith(("NOPERM", "LOADING", "BUSY")):
            raise self._connection.error_for(reply, "EVAL")
        return reply
