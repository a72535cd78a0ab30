"""Addresses as people mistype them: one clear line each, without the password in it."""

from __future__ import annotations

import pytest

from lorax import addresses
from lorax.errors import ServiceError
from lorax.params import Params
from lorax.services import servers

MISTYPED = [
    "127.0.0.1:4200/api",
    "localhost:4200",
    "prefect.example.org",
    "http//127.0.0.1:4200/api",
    "http:/127.0.0.1:4200/api",
    "http:127.0.0.1:4200",
    "http://",
    "http://:4200/api",
    "http:///api",
    "htp://127.0.0.1:4200/api",
    "ftp://127.0.0.1/api",
    "http://127.0.0.1:42000000/api",
    "http://127.0.0.1:port/api",
    "http://[::1/api",
    "http://[nonsense]/api",
    "http://127.0.0.1:4200/api extra",
    "http://127.0.0.1 :4200/api",
    " http://127.0.0.1:4200/api",
    "http://127.0.0.1:4200/api\n",
    "http://127.0.0.1:4200/\x1b[31mapi",
    '"http://127.0.0.1:4200/api"',
    "http://127.0.0.1:4200/'api",
    f"http://{'a' * 64}.example.org/api",
    "http://a..example.org/api",
    "http://prüfect.example.org/api",
    "http://user:S3cret@",
    "http://user:S3cret@host:port/api",
    "htp:/user:S3cret@127.0.0.1:4200/api",
    "user:S3cret@127.0.0.1:4200/api",
    "http://user:S3cret word@127.0.0.1:4200/api",
    "true",
    "-",
    "None",
    "file:///tmp/x",
    "/tmp/mlruns",
    "${PREFECT_API_URL}",
]
OF_NO_DATABASE = [
    "sqlite://user:S3cret@host:port/x",
    "postgresql://user:S3cret@host:port/mlflow",
    "postgresql://user:S3cret@[::1/mlflow",
    "postgresql+nonsense://user:S3cret@host/mlflow",
    'sqlite:////srv/"S3cret"/mlflow.db',
]


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
@pytest.mark.parametrize("address", MISTYPED)
def test_a_mistyped_address_is_told_in_a_line(variable: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, address)
    with pytest.raises(ServiceError, match=f"^{variable} is no address.*expected as in http://127") as error:
        servers.known(Params())
    assert str(error.value).isprintable()
    assert "S3cret" not in str(error.value)


@pytest.mark.parametrize("address", OF_NO_DATABASE)
def test_so_is_that_of_a_database(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ServiceError, match=r"^MLFLOW_TRACKING_URI is no database.s address") as error:
        servers.known(Params())
    assert "S3cret" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "https://user:pa%40ss@prefect.example.org/team/api",
        "http://[::1]:4200/api",
        "https://api.prefect.cloud/api/accounts/0a-1b/workspaces/2c-3d",
    ],
)
def test_addresses_of_servers_are_taken(address: str) -> None:
    addresses.check_server("PREFECT_API_URL", address, "")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://user:p%40ss@mlflow.example.org/x", "https://mlflow.example.org/x"),
        ("postgresql://user:p@ss/wo:rd@db/mlflow?password=p", "postgresql://db/mlflow"),
        ("user:pass@host", "host"),
        ("sqlite:////srv/a@b/mlflow.db", "sqlite:////srv/a@b/mlflow.db"),
    ],
)
def test_what_is_shown_of_an_address_has_no_password(address: str, shown: str) -> None:
    assert addresses.without_password(address) == shown


def test_a_librarys_error_is_shown_without_the_password_of_the_address_that_it_quotes() -> None:
    said = "API request to http://me:S3cret@host/api/2.0 failed"
    assert addresses.without_password_of("http://me:S3cret@host", said) == "API request to http://host/api/2.0 failed"
    assert addresses.without_password_of("http://host", said) == said


def test_loopback_is_added_to_what_the_user_keeps_from_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "10.127.0.0.1.example.org, example.org")
    monkeypatch.setenv("no_proxy", "localhost")
    wanted = "10.127.0.0.1.example.org,example.org,localhost,127.0.0.1"
    assert addresses.unproxied() == {"NO_PROXY": wanted, "no_proxy": wanted}
