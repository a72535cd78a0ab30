"""MLflow's database without its server: looked at, and never changed.

MLflow makes its tables, and with SQLite the file, just to look; and it puts the address, password and all, into errors.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

_SQLITE = "sqlite:///"
_POSTGRESQL = "postgresql"
_PATIENCE_S = 10


def is_empty(uri: str) -> bool:
    """Whether no server has made MLflow's tables there yet."""
    if uri.startswith(_SQLITE):
        return not Path(uri.removeprefix(_SQLITE)).is_file()
    from sqlalchemy import create_engine, inspect

    engine = create_engine(read_only(uri))
    try:
        return not inspect(engine).has_table("registered_models")
    finally:
        engine.dispose()


def read_only(uri: str) -> str:
    """The address for MLflow's client, such that the database refuses to be written.

    SQLite's driver is named too, since MLflow takes what follows a plain `sqlite:///` for a path and makes its folders.
    """
    from sqlalchemy.engine import URL, make_url  # it knows how its own version wants '%', '#' and '?' written

    if uri.startswith(_SQLITE):
        path = f"file:{quote(uri.removeprefix(_SQLITE))}"
        url = URL.create("sqlite+pysqlite", database=path, query={"mode": "ro", "uri": "true"})
    else:
        url = make_url(uri)
        if url.get_backend_name() == _POSTGRESQL:
            url = url.update_query_dict(
                {"options": "-c default_transaction_read_only=on", "connect_timeout": str(_PATIENCE_S)}
            )
    return url.render_as_string(hide_password=False)
