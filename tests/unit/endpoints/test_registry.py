"""[[endpoint]] tables: what is wrong in them is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.destinations.base import DestinationRefusedError
from app.endpoints.registry import Endpoint, load_endpoints


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "web"', "endpoint 1: address: is missing"),
        ('name = "web"\naddress = "no-port"', "address: .*must be host:port"),
        ('name = "web"\naddress = "a.example:0"', "address: .*must be host:port"),
        ('name = "web"\naddress = "2001:db8::1:443"', "address: .*must be host:port"),
        ('name = "A b"\naddress = "a.example:443"', "name"),
        ('name = "web"\naddress = "a.example:443"\nstarttls = "gopher"', "starttls"),
        ('name = "web"\naddress = "a.example:443"\nafter = ["nowhere"]', "no destination is named nowhere"),
        ('name = "web"\naddress = "a.example:443"\nsni = "*.example.com"', "sni"),
        (
            'name = "web"\naddress = "a.example:443"\n[[endpoint]]\nname = "web"\naddress = "b.example:443"',
            "two endpoints are named 'web'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "destinations.toml"
    file.write_text(f"[[endpoint]]\n{text}\n")
    with pytest.raises(DestinationRefusedError, match=message):
        load_endpoints(file, {"files"})


def test_without_a_file_there_is_none() -> None:
    assert load_endpoints(None, {"files"}) == {}


@pytest.mark.parametrize(
    ("address", "sni", "place", "asked"),
    [
        ("10.0.0.1:993", None, ("10.0.0.1", 993), "www.example.com"),
        ("[2001:db8::1]:443", "a.example", ("2001:db8::1", 443), "a.example"),
        ("{host}:443", None, ("www.example.com", 443), "www.example.com"),
    ],
)
def test_where_to_connect_and_what_to_ask_for(
    address: str, sni: str | None, place: tuple[str, int], asked: str
) -> None:
    endpoint = Endpoint(name="web", address=address, sni=sni)
    assert endpoint.host_and_port("www.example.com") == place
    assert endpoint.server_name("www.example.com") == asked


def test_a_wildcard_is_asked_for_by_a_name_below_it() -> None:
    assert Endpoint(name="web", address="{host}:443").host_and_port("*.example.com")[0] == (
        "certcourier-check.example.com"
    )


def test_lineages_and_domains_choose_what_is_watched() -> None:
    endpoint = Endpoint(name="web", address="a:1", domains=("*.example.com",), lineages=("www.example.com",))
    assert endpoint.serves("www.example.com", ["www.example.com"])
    assert not endpoint.serves("shop.example.com", ["shop.example.com"])
    assert not endpoint.serves("www.example.com", ["example.com"])
