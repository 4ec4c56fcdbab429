"""API keys; and TLS files, checked before the service starts."""

import hashlib
import hmac
import logging
import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from server.errors import Unauthorized
from server.settings import Settings

_LOOK_AT_FILE_EVERY_S = 1.0
# Paths that need no key: for orchestrators, for Prometheus, and for the page, into which the key is typed.
OPEN_PATHS = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics", "/"})
_OPEN_FOLDER = "/static/"

log = logging.getLogger(__name__)


class KeysError(Exception):
    """API keys were asked for, but there are none, or their file cannot be read."""


class ApiKeys:
    """The keys that are valid now: those of the settings, and those of a file that may change while we serve.

    Kept as SHA-256 digests, which all have one length, so that comparing in constant time reveals nothing of a key.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises KeysError."""
        text = settings.api_keys.get_secret_value() if settings.api_keys else ""
        self._from_settings = _digests(text.split(","))
        if text and not self._from_settings:
            raise KeysError("there is no API key in CIFAR_API_KEYS: unset it, or write keys with commas between them")
        self._file = settings.api_keys_file
        self._stat = self._stat_file()
        self._from_file = _read(self._file) if self._file else []
        self._look_again_at = time.monotonic() + _LOOK_AT_FILE_EVERY_S

    def __bool__(self) -> bool:
        """Whether a request needs a key at all."""
        return bool(self._from_settings or self._file)

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Raises Unauthorized without a valid key, in `X-API-Key` or `Authorization: Bearer`."""
        if path in OPEN_PATHS or path.startswith(_OPEN_FOLDER):
            return
        key = headers.get(b"x-api-key")
        if key is None:
            scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
            key = credentials.strip() if scheme.lower() == b"bearer" else b""
        if not key:
            raise Unauthorized("this service needs an API key: send it as X-API-Key, or as Authorization: Bearer")
        self._reread_changed_file()
        digest = hashlib.sha256(key).digest()
        # All are compared, so that the time does not tell which one matched.
        if not sum(hmac.compare_digest(digest, valid) for valid in (*self._from_settings, *self._from_file)):
            raise Unauthorized("this API key is not valid")

    def _reread_changed_file(self) -> None:
        """If the file is missing for a moment, or empty while it is written, the keys stay as they were."""
        now = time.monotonic()
        if not self._file or now < self._look_again_at:
            return
        self._look_again_at = now + _LOOK_AT_FILE_EVERY_S
        stat = self._stat_file()
        if stat == self._stat:
            return
        self._stat = stat
        try:
            self._from_file = _read(self._file)
        except KeysError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("%d API key(s) read from %s", len(self._from_file), self._file)

    def _stat_file(self) -> tuple[int, int, int] | None:
        try:
            stat = self._file.stat() if self._file else None
        except OSError:
            return None
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else None


def _read(path: Path) -> list[bytes]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # Windows' editors begin UTF-8 with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise KeysError(f"the API keys in {path} cannot be read: {reason}") from None
    digests = _digests(line for line in lines if not line.lstrip().startswith("#"))
    if not digests:
        raise KeysError(f"there is no API key in {path}: write one on each line")
    return digests


def _digests(keys: Iterable[str]) -> list[bytes]:
    return [hashlib.sha256(key.strip().encode()).digest() for key in keys if key.strip()]


def tls_problem(settings: Settings) -> str | None:
    """Why TLS cannot be served with these files, in a sentence; None where it can, or is not asked for."""
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if not certificate and not key:
        return None
    if not certificate or not key:
        return "TLS takes both --ssl-certfile and --ssl-keyfile"
    for path in (certificate, key):
        try:
            path.open("rb").close()
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
    try:
        # A key behind a passphrase would make OpenSSL ask for it at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        return f"{certificate} and {key} are not a PEM certificate and its unencrypted key ({error})"
    return None
