"""``python -m greenfly.demo``: fill the empty server that ``DEMO_URL`` names; for docker-compose.yml.

``DEMO_PASSWORD`` is its password and ``DEMO_KEYS`` the number of keys.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import quote, urlsplit

from redis.exceptions import RedisError

from greenfly.demo.clients import open_client
from greenfly.demo.dataset import fill
from greenfly.exit_codes import ExitCode
from integrity.address import mask_url
from integrity.errors import GreenflyError


def main() -> ExitCode:
    """Fill the server, unless it holds keys already."""
    url = os.environ.get("DEMO_URL", "redis://127.0.0.1:6379")
    keys = os.environ.get("DEMO_KEYS", "100000")
    if not keys.isdecimal():
        sys.stderr.write("error: DEMO_KEYS is no number.\n")
        return ExitCode.USAGE
    where = mask_url(url)
    if password := os.environ.get("DEMO_PASSWORD"):
        parts = urlsplit(url)
        url = parts._replace(netloc=f":{quote(password, safe='')}@{parts.netloc}").geturl()
    try:
        with open_client(url) as client:
            if client.info("keyspace"):
                sys.stderr.write(f"{where} holds keys already; nothing was written.\n")
                return ExitCode.OK
        written = fill(url, int(keys))
    except GreenflyError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USAGE
    except RedisError as error:
        sys.stderr.write(f"error: {where}: {mask_url(str(error))}\n")
        return ExitCode.SOURCE_UNREACHABLE
    total = sum(sum(families.values()) for families in written.values())
    sys.stderr.write(f"Wrote {total:,} keys in {len(written)} databases to {where}.\n")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
