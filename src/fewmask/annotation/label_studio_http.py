"""The HTTP client for a Label Studio server. Replies are checked like files from strangers.

The first request asks without the token whether the server is Label Studio. Redirects are not followed, cookies are not
kept, replies have a largest size, and no request is sent twice.
"""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fewmask.formats.texts import CHUNK, MAX_FILE, MAX_TEXT, field, parse_json, stream_items

if TYPE_CHECKING:
    import httpx

TOKEN = "LABEL_STUDIO_API_KEY"
"""The environment variable that holds the token; Label Studio's own client reads the same."""
CONNECT, PATIENCE = 20.0, 600.0
"""The most seconds until the server accepts a connection, and until it has processed a request."""
FRESH = 60.0
"""The seconds for which an access token is used. Label Studio's are valid for five minutes."""
QUOTED = 300
EXAMPLE = "http://localhost:8080"
FIXES = {
    401: f"it refuses the token; set {TOKEN} to one from Account & Settings there: a personal access token, or a "
    "legacy token where the organization allows them",
    403: "the token's user may not do that; take the token of somebody who may manage projects",
    404: "not there; check the address, and that the project was not deleted",
    413: "the request is too large for the server, or for a proxy before it; let it take 64 MiB",
    429: "too many requests; go on later with the same command",
}


class LabelStudio:
    """A server at an address, used as the user of the token. Use it in `with`."""

    def __init__(self, address: str, token: str | None = None) -> None:
        """`token` is by default the value of the environment variable `LABEL_STUDIO_API_KEY`.

        Raises ValueError for an invalid address or token, and for a server that is not Label Studio. Raises OSError
        when nobody answers.
        """
        try:
            import httpx
        except ImportError:
            raise ValueError("a Label Studio server needs httpx; install fewmask[label-studio]") from None
        self.address = _checked(address)
        self.path = urlsplit(self.address).path
        self._token = _token(token)
        # A session cookie would be a second identity beside the token's.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        try:
            self._client = httpx.Client(
                base_url=self.address,
                timeout=httpx.Timeout(PATIENCE, connect=CONNECT),
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                cookies=no_cookies,
                follow_redirects=False,
            )
        except httpx.InvalidURL as error:
            raise ValueError(f"{address!r}: no address ({error}); give one such as {EXAMPLE}") from None
        self._access, self._since = "", -FRESH
        try:
            self._expect_label_studio()
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> LabelStudio:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON at a path. Every request raises ValueError, or OSError where it may work later."""
        return self._json("GET", path, params=query)

    def post(self, path: str, data: Any, **query: str | int) -> Any:
        """Send JSON. Returns the JSON of the reply."""
        return self._json("POST", path, params=query, json=data)

    def upload(self, path: str, files: Mapping[str, bytes], **query: str | int) -> Any:
        """Send PNGs by name. Returns the JSON of the reply."""
        parts = {name: (name, data, "image/png") for name, data in files.items()}
        return self._json("POST", path, params=query, files=parts)

    def items(self, path: str, **query: str | int) -> Iterator[dict[str, Any]]:
        """The objects of a JSON list at a path, one at a time, however long the list is."""
        with self._reply("GET", path, params=query) as (reply, where):
            decode, parts = codecs.getincrementaldecoder("utf-8")().decode, _parts(reply, where, MAX_FILE)

            def read(remaining: int) -> str:
                decoded = list[str]()
                while remaining > 0 and (part := next(parts, None)) is not None:
                    decoded.append(decode(part))
                    remaining -= len(part)
                return "".join(decoded) + (decode(b"", final=True) if remaining > 0 else "")

            try:
                yield from stream_items(where, read)
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 ({error})") from None

    def _json(self, method: str, path: str, **request: Any) -> Any:
        with self._reply(method, path, **request) as (reply, where):
            return _parsed(_whole(reply, where), where)

    @contextmanager
    def _reply(
        self, method: str, path: str, signed: bool = True, **request: Any
    ) -> Iterator[tuple[httpx.Response, str]]:
        """A successful reply, and the name by which errors call it."""
        import httpx

        where = f"{self.address}{path}"
        headers = {"Authorization": self._authorization()} if signed else {}
        try:
            with self._client.stream(method, path, headers=headers, **request) as reply:
                if not reply.is_success:
                    raise self._refusal(reply, where)
                yield reply, where
        except httpx.TimeoutException as error:
            raise TimeoutError(
                f"{where}: no answer in time ({type(error).__name__}); the server may still process it: wait a little, "
                "and go on with the same command"
            ) from None
        except httpx.TransportError as error:
            reason = self._quoted(str(error)) or type(error).__name__
            raise ConnectionError(
                f"{where}: {reason}; check the address and that the server runs, and go on with the same command"
            ) from None

    def _authorization(self) -> str:
        """The header of a request. A legacy token is sent as it is.

        A personal token is exchanged for an access token of minutes, and is sent nowhere else.
        """
        if self._token.count(".") != 2:
            return f"Token {self._token}"
        if time.monotonic() - self._since >= FRESH:
            since = time.monotonic()
            reply = self._json("POST", "/api/token/refresh/", signed=False, json={"refresh": self._token})
            self._access = _visible(field(as_object(reply, self.address), "access", str, self.address))
            self._since = since
        return f"Bearer {self._access}"

    def _expect_label_studio(self) -> None:
        fix = "give the address at which Label Studio opens in a browser"
        try:
            with self._reply("GET", "/api/version/", signed=False) as (reply, where):
                version = _parsed(_whole(reply, where), where)
        except ValueError as error:
            raise ValueError(f"{self.address}: no Label Studio ({error}); {fix}") from None
        if not isinstance(version, dict) or "label-studio-os-package" not in version:
            raise ValueError(f"{self.address}: no Label Studio; {fix}")
        if version.get("edition", "Community") != "Community":
            # Other editions import in the background and have no export in one request, so their state is unknown.
            edition = self._quoted(str(version["edition"]))
            raise ValueError(
                f"{self.address}: Label Studio {edition}, of which only the files are read and written: "
                "`fewmask query RUN --for label-studio`"
            )

    def _refusal(self, reply: httpx.Response, where: str) -> Exception:
        status = reply.status_code
        if 300 <= status < 400:
            target = self._quoted(reply.headers.get("location", ""))
            return ValueError(f"{where}: sends elsewhere, to {target!r}; give the address that is meant")
        text = self._quoted(b"".join(_parts(reply, where, MAX_TEXT)).decode(errors="replace"))
        if status >= 500:
            return OSError(f"{where}: the server failed ({status}: {text}); see its log, then the same command goes on")
        return ValueError(f"{where}: {status}: {FIXES.get(status, 'refused')} ({text})")

    def _quoted(self, text: str) -> str:
        """A server's text, fit to be shown: short, in visible characters, and without the token."""
        for secret in filter(None, (self._token, self._access)):
            text = text.replace(secret, "…")
        text = text[:QUOTED] + ("…" if len(text) > QUOTED else "")
        return "".join(c if c.isprintable() else " " for c in text).strip()


def _checked(address: str) -> str:
    """An address without its last slash. Raises ValueError when it is no address of a server."""
    try:
        parts = urlsplit(address)
        port, _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ValueError(f"{address!r}: no address ({error}); give one such as {EXAMPLE}") from None
    if parts.username or parts.password:
        raise ValueError(f"an address with a name or password in it; leave them out, and set {TOKEN}")
    plain = address.isascii() and address.isprintable() and " " not in address
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise ValueError(f"{address!r}: no address of a server; give one such as {EXAMPLE}")
    if parts.query or parts.fragment or "?" in address or "#" in address:
        raise ValueError(f"{address!r}: an address with more than a path; give the one at which Label Studio begins")
    return address.rstrip("/")


def _token(token: str | None) -> str:
    token = (os.environ.get(TOKEN, "") if token is None else token).strip()
    if not token:
        raise ValueError(
            f"no token: set the environment variable {TOKEN} to one from Account & Settings in Label Studio"
        )
    return _visible(token)


def _visible(token: str) -> str:
    """A token that a header can hold. The error does not show the token."""
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > 10_000:
        raise ValueError(f"the token is invalid; set {TOKEN} to one from Account & Settings")
    return token


def _parts(reply: httpx.Response, where: str, limit: int) -> Iterator[bytes]:
    """The body of a reply, of at most `limit` bytes. A compressed reply is refused: none was requested."""
    if packed := reply.headers.get("content-encoding"):
        raise ValueError(f"{where}: a reply packed as {packed[:20]!r}, which was not asked for; fix the proxy")
    total = 0
    for part in reply.iter_raw(CHUNK):
        total += len(part)
        if total > limit:
            raise ValueError(f"{where}: a reply of more than {limit} bytes; a run of fewer images is needed")
        yield part


def _whole(reply: httpx.Response, where: str) -> bytes:
    return b"".join(_parts(reply, where, MAX_TEXT))


def _parsed(body: bytes, where: str) -> Any:
    try:
        return parse_json(body.decode(), where)
    except UnicodeDecodeError:
        raise ValueError(f"{where}: not JSON; give the address of Label Studio") from None


def as_object(value: Any, where: str) -> dict[str, Any]:
    """A JSON value that has to be an object. Raises ValueError when it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {json.dumps(value)[:60]} where an object was expected; is it Label Studio?")
    return value


def as_objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A JSON value that has to be a list of objects. Raises ValueError when it is none."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: {json.dumps(value)[:60]} where a list was expected; is it Label Studio?")
    return [as_object(entry, where) for entry in value]
