"""``greenfly snapshot take|list|verify|prune|restore|diff|keygen``"""

from __future__ import annotations

import typer

from greenfly.commands.snapshot import diff, keygen, listing, prune, restore, take, verify

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Snapshots: an RDB file, a manifest of checksums, a header.",
)
app.command("take", short_help="Write the source into an RDB file and a manifest.")(take.take)
app.command("list", short_help="The snapshots there are, newest first.")(listing.list_all)
app.command("verify", short_help="Check every byte and every key of one.")(verify.verify)
app.command("restore", short_help="Write one into a server, and prove it.")(restore.restore)
app.command("diff", short_help="What changed between two, without a server.")(diff.diff)
app.command("prune", short_help="Remove old ones by count and age.")(prune.prune)
app.command("keygen", short_help="Make a key for encrypted ones.")(keygen.keygen)
