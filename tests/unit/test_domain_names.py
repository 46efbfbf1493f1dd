"""What a client may write, and which names are ordered for it."""

from __future__ import annotations

import pytest

from app.domain_names import InvalidFieldError, covers, digest_names, parse_domain, resolve_names


def test_the_default_name_covers_the_bare_domain_too() -> None:
    names = resolve_names("example.com", "www", [])
    assert (names.common_name, names.names, names.san) == ("www.example.com", ("www.example.com", "example.com"), ())


def test_an_empty_name_is_the_bare_domain_alone() -> None:
    assert resolve_names("example.com", "", []).names == ("example.com",)


@pytest.mark.parametrize("name", ["*", "*.example.com"])
def test_a_wildcard_does_not_cover_the_bare_domain(name: str) -> None:
    names = resolve_names("example.com", name, [])
    assert (names.name, names.names) == ("*", ("*.example.com",))


@pytest.mark.parametrize(
    ("name", "label"), [("api", "api"), ("a.b", "a.b"), ("API.Example.com", "api"), ("*.sub", "*.sub")]
)
def test_a_name_may_be_labels_or_a_full_name(name: str, label: str) -> None:
    assert resolve_names("example.com", name, []).name == label


def test_sans_may_be_labels_or_full_names_and_duplicates_are_folded() -> None:
    names = resolve_names("example.com", "www", ["docs", "docs.example.com", "DOCS", "example.com", "a.b.example.com."])
    assert names.san == ("docs.example.com", "a.b.example.com")


def test_a_san_that_a_wildcard_of_the_same_order_covers_is_folded() -> None:
    assert resolve_names("example.com", "*", ["shop", "a.b.example.com", "example.com"]).san == (
        "a.b.example.com",
        "example.com",
    )
    assert resolve_names("example.com", "api", ["shop", "*"]).san == ("*.example.com",)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Bücher.Example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        (" example.com. ", "example.com"),
        ("sub.example.co.uk", "sub.example.co.uk"),
    ],
)
def test_a_domain_becomes_lower_case_a_labels(text: str, labels: str) -> None:
    assert parse_domain(text) == labels


@pytest.mark.parametrize(
    "text",
    [
        "",
        "com",
        "1.2.3.4",
        "exa mple.com",
        "-a.com",
        "a-.com",
        "a..com",
        ".com",
        "a_b.com",
        "../../999/secret?",
        "a.test?x=1#",
        "%2e%2e",
        "a/b.com",
        "a\x00.com",
        "a\n.com",
        "x" * 64 + ".com",
        ".".join(["abcdefgh"] * 30) + ".com",
        "xn--\ud800.com",
        "*.example.com",
        "\u202e.com",
    ],
)
def test_what_is_not_a_domain_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        parse_domain(text)
    assert caught.value.field == "domain"


@pytest.mark.parametrize("san", ["other.com", "notexample.com", "example.com.evil.net", "docs.example.org"])
def test_a_san_outside_the_domain_is_refused(san: str) -> None:
    with pytest.raises(InvalidFieldError, match=r"outside example\.com") as caught:
        resolve_names("example.com", "www", [san])
    assert caught.value.field == "san"


def test_a_name_that_is_another_domain_is_refused() -> None:
    with pytest.raises(InvalidFieldError, match=r"outside example\.com") as caught:
        resolve_names("example.com", "www.other.com", [])
    assert caught.value.field == "name"


@pytest.mark.parametrize(("field", "name", "san"), [("name", "a b", []), ("san", "www", ["a b"]), ("san", "www", [""])])
def test_what_is_not_a_name_is_refused_by_field(field: str, name: str, san: list[str]) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        resolve_names("example.com", name, san)
    assert caught.value.field == field


def test_a_hundred_names_are_allowed_and_one_more_is_not() -> None:
    assert len(resolve_names("example.com", "www", [f"n{i}" for i in range(98)]).names) == 100
    with pytest.raises(InvalidFieldError, match="101 names are too many"):
        resolve_names("example.com", "www", [f"n{i}" for i in range(99)])


def test_a_name_longer_than_a_host_name_can_be_is_refused() -> None:
    domain = ".".join(["abcdefgh"] * 27) + ".com"
    with pytest.raises(InvalidFieldError, match="253"):
        resolve_names(domain, "label-long-enough", [])


def test_a_wildcard_covers_one_label() -> None:
    assert covers(["*.example.com"], "shop.example.com")
    assert not covers(["*.example.com"], "a.shop.example.com")
    assert not covers(["*.example.com"], "example.com")


def test_the_order_of_names_does_not_matter_to_their_digest() -> None:
    assert digest_names(["b", "a", "a"]) == digest_names(["a", "b"]) != digest_names(["a"])
