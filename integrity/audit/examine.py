"""Examining a bundle: without the ledger, without the network, without trusting anything in it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from integrity.audit.contents import ContentCheck
from integrity.audit.folder_form import open_folder
from integrity.audit.frame import Frame
from integrity.audit.keys import Standing, Trust
from integrity.audit.manifest import MANIFEST_NAME
from integrity.audit.model import Examination, Finding, Problem, ProblemKind
from integrity.audit.pieces import FileReader
from integrity.audit.zip_form import open_zip
from integrity.errors import ArtifactError


def examine(path: Path, trust: Trust) -> Examination:
    """Look at every byte of a bundle.

    :param trust: the public keys whose signatures count.
    :raises ArtifactError: there is no bundle, or it cannot be read.
    """
    with ExitStack() as stack:
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                frame = open_folder(path, trust, stack)
            elif stat.S_ISREG(mode):
                frame = open_zip(stack.enter_context(FileReader(path.resolve())), trust)
            else:
                raise ArtifactError(f"{path} is neither a folder nor a plain file.", "Name a bundle.")
        except OSError as error:
            raise ArtifactError(
                f"The bundle {path} cannot be read ({error.strerror}).", "Check path and rights."
            ) from error
        contents = ContentCheck(frame, trust)
        if frame.manifest is not None:
            contents.run()
        return Examination(
            path=path,
            form=frame.form,
            signed=_signed(frame),
            key_id=frame.key.id if frame.key is not None else None,
            facts=contents.facts,
            files=len(frame.whole) + len(frame.damaged),
            problems=_told_once([*_of_frame(frame), *contents.problems]),
            notes=tuple(_notes(frame, contents, trust)),
            trusted_checkpoints=contents.testimony.trusted,
            covered_to=contents.testimony.covered_to,
        )


def _signed(frame: Frame) -> Literal[Finding.PROVEN, Finding.UNKNOWN_KEY, Finding.UNSIGNED]:
    match frame.standing:
        case Standing.TRUSTED:
            return Finding.PROVEN
        case Standing.UNKNOWN_KEY:
            return Finding.UNKNOWN_KEY
        case _:
            return Finding.UNSIGNED


def _of_frame(frame: Frame) -> list[Problem]:
    if frame.manifest is None and not frame.problems:
        return [Problem(ProblemKind.FORMAT, "it has no manifest that can be read", MANIFEST_NAME)]
    return list(frame.problems)


def _told_once(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(dict.fromkeys(problems))


def _notes(frame: Frame, contents: ContentCheck, trust: Trust) -> Iterator[str]:
    facts, testimony = contents.facts, contents.testimony
    if frame.standing is None:
        yield (
            "The bundle is not signed. Damage shows, and so does a change of one part that does not fit the others; "
            "whoever changed everything alike, and made all hashes anew, would not be noticed."
        )
    if frame.standing is Standing.UNKNOWN_KEY and frame.key is not None:
        known = "is none of the keys that you trust" if trust else "and you named no key that you trust"
        yield (
            f"It is signed with key {frame.key.id} ({frame.key}), {known}. Anybody can make such a key: compare it "
            "with what the operators published, and name it by --trust."
        )
    for key_id in testimony.unknown_keys:
        yield f"Checkpoints are signed with key {key_id}, which is none that you trust; they prove nothing yet."
    if facts is None:
        return
    last = contents.last_event
    if testimony.covered_to < last:
        yield (
            f"No trusted checkpoint signs the run's newest event ({last}): events after {testimony.covered_to} rest on "
            "the signature of the bundle alone."
        )
    if facts.hides_other_runs:
        yield (
            "Events of other runs are told by their hashes only. That each of this run's events follows from the hash "
            "before it is checked; that the events between them are the ledger's rests on the signatures."
        )
