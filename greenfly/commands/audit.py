"""``greenfly audit verify|export|checkpoint|keygen``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o

if TYPE_CHECKING:
    from integrity.audit.export import Exported
    from integrity.audit.keys import Trust
    from integrity.audit.ledger_check import LedgerExamination
    from integrity.audit.model import Examination
    from integrity.ledger import Ledger
    from integrity.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The ledger's audit events: check them, sign them, hand them to an auditor.",
)

TrustKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="KEY|FILE",
        help="A public key (ed25519:…) whose signatures count, or a file of them; repeatable.",
    ),
]


@app.command("keygen", short_help="Make a key that signs.")
def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; a new file.")],
    as_json: o.Json = False,
) -> None:
    """Write a new private key to a file that only you can read, and print its public key and id.

    Set audit.key_file to the file; give the public key to whoever checks, by another way than the bundles.
    """
    from greenfly.console import print_json
    from integrity.audit.keys import generate_key

    public = generate_key(file)
    if as_json:
        print_json({"public_key": str(public), "key_id": public.id, "key_file": str(file)})
    else:
        typer.echo(f"public key  {public}\nkey id      {public.id}")


@app.command("checkpoint", short_help="Sign the newest event.")
def checkpoint(
    to: Annotated[
        Path | None,
        typer.Option(help="File to append it to, away from the ledger (default: audit.checkpoint_file)."),
    ] = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Sign the head of the audit chain, record that, and append it to a file that is kept elsewhere."""
    from greenfly.console import print_json
    from integrity.audit.seal import Seal
    from integrity.errors import ConfigurationError
    from integrity.ledger import open_ledger

    flags: dict[str, object | None] = {"audit": {"checkpoint_file": to}} if to is not None else {}
    settings = o.load(config, state_dir, flags).settings
    ledger = open_ledger(settings)
    try:
        seal = Seal.of(settings.audit, ledger.engine)
        if seal is None:
            raise ConfigurationError(
                "No key is set that could sign.",
                "`greenfly audit keygen FILE` makes one; set audit.key_file to it.",
            )
        made = seal.sign_head(ledger.engine)
    finally:
        ledger.close()
    if as_json:
        print_json(made.to_dict() | {"file": str(seal.file) if seal.file is not None else None})
        return
    typer.echo(f"Event {made.sequence:,} is signed with key {made.key_id}; its hash is {made.head}.")
    if seal.file is not None:
        typer.echo(f"Appended to {seal.file}.")
    else:
        typer.echo(
            "Keep this line away from the ledger; in the ledger alone it can be cut off with the rest:"
        )
        typer.echo(made.line().decode("ascii"), nl=False)


@app.command("export", short_help="Write a run's record for an auditor.")
def export(
    run: Annotated[str, typer.Argument(help="Run id, its beginning or ending, or latest.")],
    to: Annotated[Path, typer.Option(help="A new folder, or a new file that ends in .zip.")],
    hide_other_runs: Annotated[
        bool,
        typer.Option(
            "--hide-other-runs",
            help="Tell of the events of other runs only their hashes (default: the whole chain, with all they say).",
        ),
    ] = False,
    with_files: Annotated[
        bool,
        typer.Option(
            "--with-files", help="Include the files that the run wrote, snapshots among them: they hold data."
        ),
    ] = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Write one bundle that is checked without the ledger: report, findings, audit chain, checkpoints, signature.

    Unsigned where no key is set. Keys of the findings are in it; values of keys are not, unless --with-files.
    """
    from greenfly.console import print_json
    from integrity.audit.export import export as write_bundle
    from integrity.ledger import open_ledger

    settings = o.load(config, state_dir, {}).settings
    ledger = open_ledger(settings)
    try:
        found = ledger.find_run(run)
        made = write_bundle(
            settings,
            ledger,
            found,
            to,
            lambda folder: write_reports(ledger, found.id, folder),
            hide_other_runs=hide_other_runs,
            with_files=with_files,
        )
    finally:
        ledger.close()
    if as_json:
        print_json(_exported_dict(made))
        return
    typer.echo(f"{made.path}: run {made.run_id}, {made.files} files, {made.bytes:,} bytes.")
    typer.echo(f"SHA-256 of its manifest: {made.manifest_sha256}")
    if made.key is not None:
        typer.echo(f"Signed with key {made.key.id} ({made.key}).")
    else:
        typer.echo(
            "It is not signed, because no key is set (audit.key_file): damage to it shows, but whoever changes "
            "everything alike is not noticed. Keep the SHA-256 of its manifest elsewhere."
        )


@app.command("verify", short_help="Check a bundle, a run, or the ledger.")
def verify(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[BUNDLE|RUN]", help="A bundle (folder or zip), a run, or nothing: the ledger."
        ),
    ] = None,
    trust: TrustKeys = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="File of checkpoints kept elsewhere (default: audit.checkpoint_file)."),
    ] = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Check the record, and say exactly what is broken.

    A bundle is checked without the ledger. Exit code 1: it is broken. Exit code 3: it is consistent, but nobody whom
    you trust signed it; for the ledger: there are checkpoints with keys that are none of those you trust.
    """
    from integrity.audit.keys import load_trust

    settings = o.load(config, state_dir, {}).settings
    trusted = load_trust(settings.audit, trust or ())
    if what is not None and _is_path(what):
        _verify_bundle(Path(what), trusted, as_json=as_json)
    else:
        _verify_ledger(settings, what, trusted, checkpoints, as_json=as_json)


def _is_path(what: str) -> bool:
    return "/" in what or what.lower().endswith(".zip") or Path(what).exists()


def _verify_bundle(path: Path, trust: Trust, *, as_json: bool) -> None:
    from greenfly.console import print_json
    from greenfly.exit_codes import ExitCode
    from integrity.audit.examine import examine
    from integrity.audit.model import Finding

    found = examine(path, trust)
    code = {Finding.PROVEN: ExitCode.OK, Finding.BROKEN: ExitCode.DIFFERENT}.get(
        found.finding, ExitCode.INCONCLUSIVE
    )
    if as_json:
        print_json(found.to_dict() | {"exit_code": int(code)})
    else:
        typer.echo("\n".join(_bundle_lines(found)))
    raise typer.Exit(int(code))


def _bundle_lines(found: Examination) -> list[str]:
    facts, problems = found.facts, found.problems
    words = {
        "proven": "PROVEN: nothing was changed since it was signed.",
        "broken": f"BROKEN: {len(problems):,} {'problem' if len(problems) == 1 else 'problems'}.",
        "unknown-key": "CONSISTENT, signed with a key that you do not trust.",
        "unsigned": "CONSISTENT, but unsigned.",
    }
    lines = [words[found.finding.value]]
    lines += [f"  {problem.place}: {problem.text}" for problem in problems]
    if facts is not None:
        lines.append(
            f"  run {facts.run_id}, exported {facts.exported_at} by {ascii(facts.exported_by)[1:-1]}: {found.files} "
            f"files, {facts.events:,} events, {facts.findings:,} findings"
        )
    lines.append(f"  checkpoints that you trust: {found.trusted_checkpoints}, up to event {found.covered_to}")
    return lines + [f"  {note}" for note in found.notes]


def _verify_ledger(
    settings: Settings, run: str | None, trust: Trust, checkpoints: Path | None, *, as_json: bool
) -> None:
    from greenfly.console import print_json
    from greenfly.exit_codes import ExitCode
    from integrity.audit.ledger_check import examine_ledger
    from integrity.ledger import open_ledger

    ledger = open_ledger(settings)
    try:
        run_id = ledger.find_run(run).id if run is not None else None
        kept_file = checkpoints or settings.audit.checkpoint_file
        found = examine_ledger(ledger, trust, kept_file, run_id)
    finally:
        ledger.close()
    code = ExitCode.OK if found.intact else ExitCode.DIFFERENT
    if found.intact and not found.checked:
        code = ExitCode.INCONCLUSIVE
    if as_json:
        print_json(_ledger_dict(found))
    else:
        typer.echo("\n".join(_ledger_lines(found)))
    raise typer.Exit(int(code))


def _ledger_dict(found: LedgerExamination) -> dict[str, object]:
    return {
        "intact": found.intact,
        "events": found.chain.events,
        "head": found.chain.head,
        "broken_at": found.broken_at,
        "problem": found.problem,
        "run": found.run_id,
        "signed": found.signed,
        "checkpoints": len(found.testimony.statements),
        "trusted_checkpoints": found.testimony.trusted,
        "covered_to": found.testimony.covered_to,
        "unknown_keys": list(found.testimony.unknown_keys),
        "not_kept": found.not_kept,
        "problems": list(found.problems),
    }


def _ledger_lines(found: LedgerExamination) -> list[str]:
    chain, testimony = found.chain, found.testimony
    if found.intact:
        lines = [f"The chain of {chain.events:,} events is intact; its head is {chain.head}."]
    elif chain.intact:
        lines = ["The chain is intact in itself, but not what it was."]
    else:
        lines = [f"The chain is broken at event {chain.broken_at}: {chain.problem}."]
    lines += [f"  {problem}" for problem in found.problems if problem != chain.problem]
    if testimony.trusted:
        lines.append(
            f"{testimony.trusted:,} signed checkpoints fit, the newest for event {testimony.covered_to:,}; "
            f"{chain.events - testimony.covered_to:,} events came after it."
        )
    elif testimony.unknown_keys:
        named = ", ".join(testimony.unknown_keys)
        lines.append(f"Its checkpoints are signed with keys that you do not trust ({named}): see --trust.")
    else:
        lines.append(
            "It is unsigned. Keep the head elsewhere: a chain alone cannot see that its newest events were cut off, "
            "nor that it was made anew."
        )
    if testimony.trusted and testimony.unknown_keys:
        lines.append(f"Other checkpoints are signed with unknown keys: {', '.join(testimony.unknown_keys)}.")
    if found.not_kept:
        lines.append(
            f"{found.not_kept:,} checkpoints could not be written to the file elsewhere at their time."
        )
    return lines


def _exported_dict(made: Exported) -> dict[str, object]:
    return {
        "bundle": str(made.path),
        "run": made.run_id,
        "files": made.files,
        "bytes": made.bytes,
        "manifest_sha256": made.manifest_sha256,
        "signed_by": made.key.id if made.key is not None else None,
        "public_key": str(made.key) if made.key is not None else None,
        "checkpoint": made.checkpoint.to_dict() if made.checkpoint is not None else None,
    }


def write_reports(ledger: Ledger, run_id: str, folder: Path) -> int:
    """The report and the findings of a bundle; returns the number of findings."""
    from integrity.audit import names
    from reports.build import build_report
    from reports.write import ReportFormat, write_forms

    files = {
        ReportFormat.HTML: names.REPORT_HTML,
        ReportFormat.JSON: names.REPORT_JSON,
        ReportFormat.CSV: names.FINDINGS_CSV,
        ReportFormat.PARQUET: names.FINDINGS_PARQUET,
    }
    paths = {each: folder / name for each, name in files.items()}
    return write_forms(ledger, build_report(ledger, run_id), paths)
