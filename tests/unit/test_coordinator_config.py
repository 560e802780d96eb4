"""formation-coordinator's settings: where they come from and what is refused."""

import pytest

from formation.settings import ConfigError
from formation_coordinator.config import CoordinatorConfig, problem_with_access, read_config

FILES = {"c.toml": 'listen = "unix:/run/c.sock"\netcd = ["http://e1:2379", "http://[::1]:2379"]\n'}


def read(path: str) -> str:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory")
    return FILES[path]


def config(*argv: str, **environ: str) -> CoordinatorConfig:
    return read_config(argv, {f"FORMATION_COORDINATOR_{k}": v for k, v in environ.items()}, read)


def problems(*argv: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config(*argv, **environ)
    return caught.value.problems


def test_without_settings_it_serves_loopback_and_a_local_etcd() -> None:
    assert config() == CoordinatorConfig()


def test_a_flag_beats_the_environment_which_beats_the_file() -> None:
    found = config("--config", "c.toml", "--id", "flag", ID="env", LISTEN="127.0.0.1:1")
    assert (found.id, found.listen) == ("flag", "127.0.0.1:1")
    assert found.etcd == ("http://e1:2379", "http://[::1]:2379")


@pytest.mark.parametrize("address", ["10.0.0.1:7100", "127.0.0.1:1", "[::1]:1", "localhost:1"])
def test_tcp_without_certificates_must_be_spelled_out(address: str) -> None:
    said = problem_with_access(config("--listen", address), certified=False)
    assert "--insecure" in said
    assert "formation-coordinator init" in said
    assert not problem_with_access(config("--listen", address, "--insecure"), certified=False)


@pytest.mark.parametrize(("address", "certified"), [("10.0.0.1:7100", True), ("unix:/x", False)])
def test_certificates_or_a_socket_need_no_insecure(address: str, certified: bool) -> None:
    assert not problem_with_access(config("--listen", address), certified=certified)


def test_nobody_is_insecure_who_has_certificates() -> None:
    said = problem_with_access(
        config("--listen", "10.0.0.1:1", "--insecure", "--identity-dir", "/i"), certified=True
    )
    assert "there is a certificate in /i" in said


def test_an_address_that_nobody_can_dial_needs_one_to_advertise() -> None:
    (said,) = problems("--listen", "0.0.0.0:7100", "--insecure")
    assert "--advertise" in said
    assert config("--listen", "[::]:7100", "--insecure", "--advertise", "h:7100").advertise


def test_an_embedded_etcd_needs_a_directory_and_only_it() -> None:
    assert "needs --data-dir" in problems("--etcd", "embedded")[0]
    assert "only an embedded etcd" in problems("--data-dir", "/x")[0]


def test_all_problems_come_at_once_each_with_its_place() -> None:
    said = problems(
        "--listen", "nonsense", "--replace-after", "-1", "--etcd", "ftp://x", PREFIX="x"
    )
    assert len(said) == 4
    assert any(line.startswith("--listen: 'nonsense' is not HOST:PORT") for line in said)
    assert any("FORMATION_COORDINATOR_PREFIX: unknown" in line for line in said)


def test_an_unknown_flag_names_the_nearest() -> None:
    assert problems("--lisen", "x:1")[0] == "--lisen: unknown; did you mean --listen?"


def test_a_missing_file_is_said() -> None:
    assert problems("--config", "none.toml")[0].startswith("none.toml: cannot be read")


@pytest.mark.parametrize(
    "url", ["file:///mnt/share", "s3://bucket", "s3://bucket/formation/", "https://host/a/b"]
)
def test_an_artifact_store_is_a_directory_a_bucket_or_a_web_server(url: str) -> None:
    assert config("--artifact-store", url).artifact_store == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["/mnt/share", "file://host/share", "file:///", "s3://", "http://host/a", "gs://bucket"]
)
def test_another_artifact_store_is_refused(url: str) -> None:
    (said,) = problems("--artifact-store", url)
    assert "is not file:///PATH, s3://BUCKET/NAME or https://HOST/PATH" in said


@pytest.mark.parametrize(
    "url", ["https://ann:sesame@host/a", "s3://AKIA:sesame@bucket", "https://host/a?key=sesame"]
)
def test_a_password_in_an_artifact_stores_url_is_refused_and_not_repeated(url: str) -> None:
    (said,) = problems("--artifact-store", url)
    assert "no passwords, keys or settings in it" in said
    assert "sesame" not in said
