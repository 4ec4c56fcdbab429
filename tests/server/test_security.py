"""Any of several keys opens, from either place; their file is followed. Wrong TLS files are a sentence."""

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from server import security
from server.__main__ import main, read_settings
from server.errors import Unauthorized
from server.security import ApiKeys, KeysError, tls_problem
from server.settings import Settings


def accepted(keys: ApiKeys, key: str, header: bytes = b"x-api-key") -> bool:
    try:
        keys.check("/predict", {header: key.encode()})
    except Unauthorized:
        return False
    return True


def test_without_keys_none_is_wanted() -> None:
    assert not ApiKeys(Settings())


def test_any_of_the_keys_in_the_environment_opens_in_either_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_API_KEYS", "old-key, new-key,")
    keys = ApiKeys(read_settings([]))
    assert keys
    assert accepted(keys, "old-key")
    assert accepted(keys, "new-key")
    assert accepted(keys, "Bearer new-key", b"authorization")
    for wrong in ("", "new-ke", "new-keys", "old-key, new-key", "é"):
        assert not accepted(keys, wrong)
    assert not accepted(keys, "Basic new-key", b"authorization")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"])
def test_probes_and_metrics_want_no_key(path: str) -> None:
    ApiKeys(Settings(api_keys=SecretStr("key"))).check(path, {})


def test_a_file_of_keys_is_followed_and_a_bad_one_takes_nobodys_key_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(security, "_LOOK_AT_FILE_EVERY_S", 0)
    path = tmp_path / "keys"
    path.write_bytes("# ours\nfirst\n".encode("utf-8-sig"))
    keys = ApiKeys(Settings(api_keys_file=path))
    assert accepted(keys, "first")
    assert not accepted(keys, "# ours")
    path.write_text("first\n", "utf-8-sig")  # as Windows' editors have it
    assert accepted(keys, "first")
    path.write_text("first\nsecond\n")
    assert accepted(keys, "second")
    path.write_text("second\n")
    assert not accepted(keys, "first")
    for damage in (path.unlink, lambda: path.write_text("\n"), lambda: path.write_bytes(b"\xff\xfe")):
        damage()
        assert accepted(keys, "second")
    assert caplog.text.count("the API keys stay as they were") == 3
    assert "second" not in caplog.text


def test_keys_that_cannot_be_had_keep_the_service_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--api-keys-file", str(tmp_path / "none")]) == 1
    assert "cannot be read: No such file or directory" in capsys.readouterr().err
    monkeypatch.setenv("CIFAR_API_KEYS", " , ")
    assert main([]) == 1
    assert "there is no API key in CIFAR_API_KEYS" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    with pytest.raises(KeysError, match="there is no API key in"):
        ApiKeys(Settings(api_keys_file=tmp_path / "empty"))


def test_settings_do_not_show_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_API_KEYS", "very-secret")
    settings = read_settings([])
    assert "very-secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    return folder / "chain.pem", folder / "key.pem"


def test_good_tls_files_are_no_problem(tls_files: tuple[Path, Path]) -> None:
    certificate, key = tls_files
    assert tls_problem(Settings(ssl_certfile=certificate, ssl_keyfile=key)) is None
    assert tls_problem(Settings()) is None


def test_tls_files_that_are_missing_broken_or_not_of_one_pair_are_a_sentence(
    tls_files: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = tls_files
    stranger = tmp_path / "stranger.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(stranger)
    locked = tmp_path / "locked.pem"
    private_key = serialization.load_pem_private_key(key.read_bytes(), None)
    as_pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked.write_bytes(private_key.private_bytes(*as_pem, serialization.BestAvailableEncryption(b"passphrase")))
    for chain, private, says in (
        (certificate, None, "TLS takes both"),
        (certificate, tmp_path / "none.pem", "cannot be read: No such file or directory"),
        (certificate, certificate, "are not a PEM certificate and its unencrypted key"),
        (certificate, locked, "are not a PEM certificate and its unencrypted key"),
        (certificate, stranger, "are not a PEM certificate and its unencrypted key"),
    ):
        problem = tls_problem(Settings(ssl_certfile=chain, ssl_keyfile=private))
        assert problem
        assert says in problem
        assert "\n" not in problem
