"""An environment in a dotenv file.

Statements are found as python-dotenv finds them.  What is written is written so that python-dotenv, Docker Compose and
a POSIX shell (``set -a; . ./.env``) read the same, and a value that cannot be is refused.  Everything else in the file
stays byte for byte: comments, order, blank lines, the style of quotes, ``export``, line endings, the final newline.

A change is a new file put into the old one's place, so that readers see the one or the other, whole; the old one is
kept beside it, on the disk before the new one is.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from integrity.errors import ConfigurationError
from integrity.switch.environment import (
    Changes,
    EnvironmentChanged,
    EnvironmentFailed,
    EnvironmentState,
    holds,
)
from integrity.switch.settings import VARIABLE_PATTERN, DotenvSettings

PREVIOUS_SUFFIX: Final = ".greenfly-previous"
_NEW_SUFFIX: Final = ".greenfly-new"
_LOCK_POLL_SECONDS: Final = 0.02

# -- reading ---------------------------------------------------------------------------------------------------------

_SPACE: Final = re.compile(r"\s*")
_BLANK: Final = re.compile(r"[^\S\r\n]*")
_EXPORT: Final = re.compile(r"export[^\S\r\n]+")
_NAME: Final = re.compile(r"'(?P<quoted>[^']+)'|(?!')(?P<plain>[^=#\s]+)")
_EQUALS: Final = re.compile(r"=[^\S\r\n]*")
_QUOTED: Final = re.compile(r"""'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
_COMMENT: Final = re.compile(r"(?:[^\S\r\n]*#[^\r\n]*)?")
_LINE: Final = re.compile(r"[^\r\n]*")
_END: Final = re.compile(r"[^\S\r\n]*(?:\r\n|\n|\r|\Z)")
_REST: Final = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)?")
_ESCAPES: Final = {
    "'": re.compile(r"\\(?P<what>[\\'])"),
    '"': re.compile(r"\\(?P<what>[\\'\"abfnrtv])"),
}
_ESCAPED: Final = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))


@dataclass(frozen=True, slots=True)
class _Statement:
    """One statement of the file, comments included; the offsets are those of its text."""

    start: int
    """Of its first line, indentation included; blank lines before it belong to nobody."""
    end: int
    name: str | None = None
    value: str | None = None
    """None where there is no ``=``."""
    value_start: int = 0
    value_end: int = 0
    exported: bool = False
    understood: bool = True


def _statements(text: str, path: Path) -> list[_Statement]:
    found = []
    at = 1 if text.startswith("\ufeff") else 0
    while at < len(text):
        statement = _statement(text, at, path)
        if statement is None:
            break
        found.append(statement)
        at = statement.end
    return found


def _statement(text: str, begin: int, path: Path) -> _Statement | None:
    """The statement after *begin*; None where only white space is left."""
    at = _past(_SPACE, text, begin)
    if at == len(text):
        return None
    start = max(begin, text.rfind("\n", begin, at) + 1, text.rfind("\r", begin, at) + 1)
    if text[at] == "#":
        return _Statement(start, _past(_REST, text, at))
    export = _EXPORT.match(text, at)
    name = _NAME.match(text, export.end() if export else at)
    if name is None:
        return _Statement(start, _past(_REST, text, at), understood=False)
    equals = _EQUALS.match(text, _past(_BLANK, text, name.end()))
    value, value_start, value_end = None, name.end(), name.end()
    if equals:
        value, value_start, value_end = _value(text, equals, path)
    end = _END.match(text, _past(_COMMENT, text, value_end))
    if end is None:
        return _Statement(start, _past(_REST, text, value_end), understood=False)
    return _Statement(
        start, end.end(), name["quoted"] or name["plain"], value, value_start, value_end, export is not None
    )


def _value(text: str, equals: re.Match[str], path: Path) -> tuple[str, int, int]:
    """A value and where it stands."""
    at = equals.end()
    quote = text[at : at + 1]
    if quote in _ESCAPES:
        quoted = _QUOTED.match(text, at)
        if quoted is None:
            # Every reader goes on differently from here.
            line = len(re.findall(r"\r\n|\n|\r", text[:at])) + 1
            raise EnvironmentFailed(
                f"{path}, line {line}: a quote is opened and not closed.", "Correct the file by hand."
            )
        inner = re.sub(r"\r\n?", "\n", quoted[1] if quote == "'" else quoted[2])
        value = _ESCAPES[quote].sub(lambda m: _ESCAPED.get(m["what"], m["what"]), inner)
        return value, at, quoted.end()
    if quote == "#" and at > equals.start() + 1:
        return "", equals.start() + 1, equals.start() + 1
    line_text = text[at : _past(_LINE, text, at)]
    value = re.split(r"\s+#", line_text, maxsplit=1)[0].rstrip()
    return (value, at, at + len(value)) if value else ("", equals.start() + 1, equals.start() + 1)


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


# -- changing --------------------------------------------------------------------------------------------------------

_NEEDS_NO_QUOTES: Final = re.compile(r"[A-Za-z0-9_./:@%+,-]+")


def _forms(name: str, value: str, present: str) -> list[str]:
    """How *value* can be written, the style of quotes that is there first.

    :raises EnvironmentFailed: not at all.
    """
    forms = {"": value} if _NEEDS_NO_QUOTES.fullmatch(value) else {}
    if "'" not in value:
        forms["'"] = f"'{value}'"
    if not set(value) & set('"$`'):
        forms['"'] = f'"{value}"'
    problem = ""
    if not value.isprintable():
        problem = "a line break, a control character or a byte that is not UTF-8"
    elif "\\" in value:
        problem = "a backslash"
    elif "${" in value:
        problem = "${, which python-dotenv replaces even between single quotes"
    elif not forms:
        problem = "a single quote beside a double quote, $ or `"
    if problem:
        raise EnvironmentFailed(
            f"The new value of {name} holds {problem}; no way to write it means the same to every reader.",
            "In a URL, percent-encode it: \\ is %5C, ' is %27, $ is %24, a double quote is %22, ` is %60.",
        )
    style = present[:1] if present[:1] in ("'", '"') else ""
    return [forms[style], *forms.values()] if style in forms and present else [*forms.values()]


def _changed(text: str, changes: Changes, path: Path) -> str:
    """*text* with *changes* made; checked by reading it again."""
    before = _statements(text, path)
    for name in changes:
        elsewhere = re.compile(rf"(?:^|[\s;]){name}\s*[=:]")
        for statement in before:
            said = text[statement.start : statement.end]
            if (
                statement.value is not None
                and text[statement.value_start : statement.value_end][:1] not in _ESCAPES
            ):
                said = statement.value
            elif statement.understood:
                continue
            if elsewhere.search(said):
                raise EnvironmentFailed(
                    f"{path} sets {name} on a line that not every reader understands.",
                    f"Write it as {name}=value on a line of its own, or take it out.",
                )
    for name, value in changes.items():
        text = _removed(text, name, path) if value is None else _set(text, name, value, path)
    after = _statements(text, path)
    kept = [
        [(s.name, s.value, s.understood) for s in statements if s.name not in changes]
        for statements in (before, after)
    ]
    if kept[0] != kept[1] or not holds(_values(after), changes) or _continued(text, after, changes):
        raise EnvironmentFailed(
            f"{path} is written in a way that does not allow a change that every reader understands.",
            "Look at the lines that are no plain NAME=value, and at a backslash at the end of a line.",
        )
    return text


def _set(text: str, name: str, value: str, path: Path) -> str:
    statements = _statements(text, path)
    present = [statement for statement in statements if statement.name == name]
    if present:
        last = present[-1]  # Every reader takes the last one.
        form = _forms(name, value, text[last.value_start : last.value_end])[0]
        apart = "" if text[last.value_end : last.value_end + 1] in ("", " ", "\r", "\n") else " "
        equals = "=" if last.value is None else ""
        return text[: last.value_start] + equals + form + apart + text[last.value_end :]
    assignments = [statement for statement in statements if statement.value is not None]
    export = "export " if assignments and all(statement.exported for statement in assignments) else ""
    line = f"{export}{name}={_forms(name, value, '')[0]}"
    newline = "\r\n" if re.search(r"\r?\n", text + "\n")[0] == "\r\n" else "\n"  # type: ignore[index]  # always found
    return text + newline + line if text and text[-1] not in "\r\n" else text + line + newline


def _removed(text: str, name: str, path: Path) -> str:
    complete = text[-1:] in ("\r", "\n")
    for statement in reversed([s for s in _statements(text, path) if s.name == name]):
        text = text[: statement.start] + text[statement.end :]
    return text if complete else re.sub(r"(?:\r\n|\n|\r)\Z", "", text)


def _values(statements: list[_Statement]) -> dict[str, str]:
    values: dict[str, str] = {}
    for statement in statements:
        if statement.name is None:
            continue
        if statement.value is None:
            values.pop(statement.name, None)
        else:
            values[statement.name] = statement.value
    return values


def _continued(text: str, statements: list[_Statement], changes: Changes) -> bool:
    """Whether a shell takes the line of one of *changes* for the end of the line before."""
    return any(
        this.name in changes
        and text[: this.start].endswith("\\\n")
        and text[before.start : before.end].strip()[0] != "#"
        for before, this in pairwise(statements)
    )


# -- the file --------------------------------------------------------------------------------------------------------


class DotenvSwitch:
    """A dotenv file as an :class:`~integrity.switch.environment.EnvironmentSwitch`.

    :raises ConfigurationError: no path is set.
    """

    def __init__(self, settings: DotenvSettings) -> None:
        if settings.path is None:
            raise ConfigurationError("switch.dotenv.path is not set.", "Name the applications' dotenv file.")
        self._path = settings.path
        self._lock_timeout = settings.lock_timeout
        self._written: Changes | None = None

    @property
    def name(self) -> str:
        """The kind and the path."""
        return f"dotenv {self._path}"

    def read(self) -> EnvironmentState:
        """Every variable as it stands there; ``${…}`` is not replaced.

        :raises EnvironmentFailed: the file is missing, cannot be read, or has a quote that is not closed.
        """
        with self._named_errors("read"):
            return self._state(self._content(self._real_path()))

    def check(self, changes: Changes) -> None:
        """Write the changed file beside the present one, and remove it.

        A file that is mounted by itself into a container passes, and yet cannot be replaced.

        :raises EnvironmentFailed: as :meth:`write`.
        """
        with self._named_errors("written"):
            path = self._real_path()
            with self._locked(path.parent):
                new = self._changed(self._content(path), changes)
                facts = path.stat()
                with _new_file(path, path.name, new, facts, stat.S_IMODE(facts.st_mode)):
                    pass

    def write(self, expected: EnvironmentState, changes: Changes) -> EnvironmentState:
        """Put a changed file into the place of the present one, which is kept beside it.

        :raises EnvironmentChanged: the file is not what *expected* was read from.
        :raises EnvironmentFailed: the file, its folder or its lock cannot be used, or a value not be written safely.
        """
        with self._named_errors("written"):
            path = self._real_path()
            with self._locked(path.parent):
                old = self._content(path)
                new = self._changed(old, changes)
                if new != old:
                    self._expect(old, expected)
                    self._replace(path, old, new)
                self._written = dict(changes)
                return self._state(new)

    def confirm(self, timeout: float) -> str:
        """Read the file again; what applications do with it is theirs, so *timeout* is not needed.

        :raises EnvironmentFailed: the file cannot be read.
        """
        if self._written is None:
            return "Nothing was written here that could be confirmed."
        if holds(self.read().values, self._written):
            return ""
        return f"{self._path} no longer holds what was written; somebody else changed it."

    def _changed(self, content: bytes, changes: Changes) -> bytes:
        for name in changes:
            if not re.fullmatch(VARIABLE_PATTERN, name):
                raise EnvironmentFailed(f"{name!r} is no name of a variable.", "Use letters, digits and _.")
        return _changed(_text(content), changes, self._path).encode("utf-8", "surrogateescape")

    def _state(self, content: bytes) -> EnvironmentState:
        return EnvironmentState(_values(_statements(_text(content), self._path)), _version(content))

    def _expect(self, content: bytes, expected: EnvironmentState) -> None:
        if _version(content) != expected.version:
            raise EnvironmentChanged(
                f"{self._path} was changed since it was read; it was left as it is.",
                "Look at what changed, and start again.",
            )

    def _real_path(self) -> Path:
        path = Path(os.path.realpath(self._path, strict=True))
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            what = "has more than one hard link" if stat.S_ISREG(facts.st_mode) else "is no regular file"
            raise EnvironmentFailed(
                f"{self._path} {what}, so it cannot be replaced in one step.",
                "Name a plain file; a symlink to one will do.",
            )
        return path

    def _content(self, path: Path) -> bytes:
        return path.read_bytes()

    def _replace(self, path: Path, old: bytes, new: bytes) -> None:
        facts = path.stat()
        mode = stat.S_IMODE(facts.st_mode)
        previous = path.with_name(path.name + PREVIOUS_SUFFIX)
        with _new_file(path, previous.name, old, facts, mode & 0o600) as file:
            os.replace(file, previous)
        _sync_folder(path.parent)
        with _new_file(path, path.name, new, facts, mode) as file:
            # Those who do not know of the lock, an editor say, have only this moment left to be overlooked.
            if self._content(path) != old:
                raise EnvironmentChanged(
                    f"{self._path} was changed while it was being written; it was left as it is.",
                    "Look at what changed, and start again.",
                )
            os.replace(file, path)
        _sync_folder(path.parent)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the folder's advisory lock: the file itself is another one after each change."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = monotonic() + self._lock_timeout
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if monotonic() >= deadline:
                        raise EnvironmentFailed(
                            f"Another process has held the lock on {folder} for {self._lock_timeout:g} s.",
                            "Wait for it, or end it; nothing was written.",
                        ) from None
                    sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _named_errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise EnvironmentFailed(
                f"{self._path} does not exist.", "Correct switch.dotenv.path; an empty file will do."
            ) from error
        except OSError as error:
            raise EnvironmentFailed(
                f"{self._path} cannot be {done} ({error.strerror}).",
                "Check the rights of the file and its folder, and the disk; a file that is mounted by itself into a "
                "container cannot be replaced, its folder can. Repeating this does no harm.",
            ) from error


@contextmanager
def _new_file(like: Path, name: str, content: bytes, facts: os.stat_result, mode: int) -> Iterator[Path]:
    """A file with *content*, on the disk, with the owner and attributes of *like*; removed if it is still there."""
    path = like.with_name(name + _NEW_SUFFIX)
    path.unlink(missing_ok=True)  # Of a process that was killed; the lock says that it is gone.
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            own = os.fstat(handle)
            if (own.st_uid, own.st_gid) != (facts.st_uid, facts.st_gid):
                os.fchown(handle, facts.st_uid, facts.st_gid)
            shutil.copystat(like, path)
            os.fchmod(handle, mode)
            os.utime(handle)
            os.fsync(handle)
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _version(content: bytes) -> str:
    return sha256(content).hexdigest()[:32]
