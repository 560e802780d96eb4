"""etcd addresses as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from formation_coordinator.store.endpoints import (
    TlsFiles,
    parse_endpoint,
    parse_endpoints,
    read_credentials,
)


@pytest.mark.parametrize(
    ("text", "target", "secure"),
    [
        ("http://127.0.0.1:2379", "dns:///127.0.0.1:2379", False),
        ("http://etcd.example/", "dns:///etcd.example:2379", False),
        ("etcd:4001", "dns:///etcd:4001", False),
        ("http://[::1]:2379", "dns:///[::1]:2379", False),
        ("[::1]", "dns:///[::1]:2379", False),
        ("https://etcd:1", "dns:///etcd:1", True),
        ("unix:/run/etcd/client:1", "unix:/run/etcd/client:1", False),
        ("unix:///run/etcd.sock", "unix:/run/etcd.sock", False),
    ],
)
def test_an_address_becomes_a_target(text: str, target: str, secure: bool) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.text, endpoint.target, endpoint.secure) == (text, target, secure)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ftp://x:1", "use http://, https:// or unix:/path"),
        ("http://x:port", "the port is not a number"),
        ("http://x:70000", "the port is not a number"),
        ("http://x:1/v3", "expected http://host:port, no more"),
        ("http://user:secret@x:1", "expected http://host:port, no more"),
        ("http://", "expected http://host:port"),
        ("unix:relative", "must be absolute"),
    ],
)
def test_what_cannot_be_an_address_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as info:
        parse_endpoint(text)
    assert repr(text) in str(info.value)
    assert "\n" not in str(info.value)


def test_several_addresses_are_separated_by_commas() -> None:
    texts = [endpoint.text for endpoint in parse_endpoints("http://a:1, http://b:2,")]
    assert texts == ["http://a:1", "http://b:2"]


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no etcd endpoint"):
        parse_endpoints(" , ")


def test_tls_files_for_an_address_without_tls_are_refused() -> None:
    with pytest.raises(ValueError, match="not every etcd endpoint is https"):
        parse_endpoints("https://a,http://b", TlsFiles(ca="x"))


def test_a_missing_tls_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"cannot read {tmp_path}/ca.pem: No such file"):
        read_credentials(TlsFiles(ca=str(tmp_path / "ca.pem")))


def test_a_tls_file_that_is_no_pem_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nonsense")
    with pytest.raises(ValueError, match=f"{path} is not a PEM file"):
        read_credentials(TlsFiles(ca=str(path)))


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValueError, match="must be given together"):
        read_credentials(TlsFiles(cert="cert.pem"))
