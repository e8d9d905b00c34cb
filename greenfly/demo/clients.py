"""The redis-py client of the demonstration: bytes in, bytes out, and no command is ever sent twice."""

from __future__ import annotations

from pathlib import Path

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def open_client(url: str, database: int = 0, *, timeout: float = 30.0, ca_file: Path | None = None) -> Redis:
    """A client of one database; a database number in *url* is overridden.

    redis-py repeats a command whose reply was lost, which would count twice: retries are off.  RESP2 without a
    driver name keeps the statistics of older servers free of errors that are not the application's.

    :param ca_file: certificates to believe, for a ``rediss://`` URL.
    """
    trust = {"ssl_ca_certs": str(ca_file)} if ca_file else {}
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        driver_info=None,
        client_name="demo",
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=5.0,
        **trust,
    )
    # Given as an argument, the number would lose against one in the URL.
    pool.connection_kwargs["db"] = database
    return Redis.from_pool(pool)
