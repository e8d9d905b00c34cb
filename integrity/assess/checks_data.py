"""The checks about keys: their types, expiries, sizes, and places."""

from __future__ import annotations

from typing import Final

from integrity.assess.data_expiry import (
    look_at_expiry_limit,
    look_at_field_expiry,
    look_at_former_field_expiry,
)
from integrity.assess.data_kinds import look_at_json, look_at_streams, look_at_types
from integrity.assess.data_places import look_at_databases, look_at_sentinel_key, look_at_target
from integrity.assess.data_sizes import (
    look_at_big_keys,
    look_at_emptiness,
    look_at_hot_keys,
    look_at_key_names,
    look_at_string_limit,
)
from integrity.assess.model import Check, Reach, Severity
from integrity.strategy import Strategy

_BLOCKING, _WARNING, _INFO = Severity.BLOCKING, Severity.WARNING, Severity.INFO

CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "data.databases",
        "Databases that the target lacks",
        _BLOCKING,
        look_at_databases,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.target-holds-keys",
        "Keys that the target holds already",
        _BLOCKING,
        look_at_target,
        strategies=frozenset({Strategy.COPY}),
        at_cutover=False,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.sentinel-key",
        "A key under the name of the sentinel",
        _WARNING,
        look_at_sentinel_key,
        strategies=frozenset({Strategy.NATIVE}),
        at_cutover=False,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.empty",
        "Nothing to move",
        _WARNING,
        look_at_emptiness,
        needs_census=True,
        at_cutover=False,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.types",
        "Types that the target does not have",
        _BLOCKING,
        look_at_types,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.field-expiry",
        "Expiries of hash fields",
        _BLOCKING,
        look_at_field_expiry,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.formerly-field-expiry",
        "Hashes that once had expiring fields",
        _BLOCKING,
        look_at_former_field_expiry,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.expiry-limit",
        "Expiries beyond the target's limit",
        _WARNING,
        look_at_expiry_limit,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.string-limit",
        "Strings beyond the target's limit",
        _BLOCKING,
        look_at_string_limit,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.big-keys",
        "Big keys",
        _WARNING,
        look_at_big_keys,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.hot-keys",
        "Hot keys",
        _WARNING,
        look_at_hot_keys,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.key-names",
        "Long names of keys",
        _INFO,
        look_at_key_names,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.streams",
        "Streams and their groups",
        _WARNING,
        look_at_streams,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "data.json",
        "JSON documents",
        _INFO,
        look_at_json,
        needs_census=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
)
