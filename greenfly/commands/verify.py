"""``greenfly verify``"""

from __future__ import annotations

from greenfly.commands import options as o
from greenfly.commands.migrate import Extra


def verify(
    source: o.Source = None,
    target: o.Target = None,
    allow_extra: Extra = None,
    databases: o.Databases = None,
    label: o.Label = None,
    source_password_file: o.SourcePasswordFile = None,
    source_ca: o.SourceCa = None,
    source_cert: o.SourceCert = None,
    source_key: o.SourceKey = None,
    target_password_file: o.TargetPasswordFile = None,
    target_ca: o.TargetCa = None,
    target_cert: o.TargetCert = None,
    target_key: o.TargetKey = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Compare every key of both servers, in both directions. Nothing is written to either."""
    from flows import sequence
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress

    loaded = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
            "databases": databases,
            "label": label,
            "verify": o.without_empty({"extra_keys": "allow" if allow_extra else None}),
        },
    )
    finish(sequence.verify(loaded.settings, make_progress(quiet=quiet)), as_json=as_json)
