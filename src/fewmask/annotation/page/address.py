"""Where a page listens, and the address by which people open it. By default it is for this machine alone."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LOCALHOST = "127.0.0.1"
HTTPS = 443


@dataclass(frozen=True)
class Address:
    """Raises ValueError where people would open the page without encryption, or the certificate cannot be used."""

    host: str = LOCALHOST
    """The address of this machine that the server listens at."""
    public: str | None = None
    """The https address by which people open the page. A proxy there, or this server itself, does the encryption."""
    certificate: tuple[Path, Path] | None = None
    """The files of a certificate and its key, in PEM. With them this server speaks TLS."""

    def __post_init__(self) -> None:
        if self.public is not None and (fault := _fault(self.public)):
            raise ValueError(f"--public-url {self.public}: {fault}; give for example https://labels.example.org")
        try:
            number = ipaddress.ip_address(LOCALHOST if self.host == "localhost" else self.host)
        except ValueError as error:
            raise ValueError(
                f"--host {self.host}: no address of a network card; give one, or 0.0.0.0 for all of this machine"
            ) from error
        if self.public is None and self.certificate is None and not number.is_loopback:
            raise ValueError(
                f"--host {self.host}: without TLS others on the way could read links and answers; give --tls "
                "CERTIFICATE KEY, or --public-url with the https address of a proxy"
            )
        if self.public is None and number.is_unspecified:
            raise ValueError(f"--host {self.host}: nobody can open this address; give --public-url too")
        if self.certificate is not None:
            _check(*self.certificate)

    @property
    def shared(self) -> bool:
        """Whether people open the page from other machines. Then only the links of annotators open it."""
        return self.public is not None or self.certificate is not None

    @property
    def port(self) -> int | None:
        """The port that the server must have, so that the public address leads to it; None where any will do."""
        if self.certificate is None or self.public is None:
            return None  # a proxy knows it
        return urlsplit(self.public).port or HTTPS

    def base(self, port: int) -> str:
        """The beginning of links, without the slash before a token."""
        if self.public is not None:
            return self.public.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.shared else ''}://{host}:{port}"

    def origin(self, host: str) -> str | None:
        """The origin of the page's own requests for a `Host`; None where the page is not opened by that name."""
        if self.public is not None:
            name = urlsplit(self.public).netloc.lower().removesuffix(f":{HTTPS}")
            return f"https://{name}" if host.lower() in (name, f"{name}:{HTTPS}") else None
        # Any port: a tunnel may have another one.
        names = {LOCALHOST, "localhost", self.host, f"[{self.host}]"}
        if host not in names and host.rpartition(":")[0] not in names:
            return None
        return f"http{'s' if self.shared else ''}://{host}"


def _fault(public: str) -> str:
    """Why people cannot open the page by an address; empty where they can."""
    try:
        parts = urlsplit(public)
        port, name = parts.port, parts.hostname
    except ValueError as error:
        return str(error)
    if parts.scheme != "https":
        return "it does not begin with https://, and others on the way could read the links"
    if not name or not public.isascii() or not public.isprintable() or " " in public or port == 0:
        return "it names no machine (names of other alphabets are written as xn--…)"
    return "it has a user, a query or a fragment" if "@" in parts.netloc or parts.query or parts.fragment else ""


def _check(certificate: Path, key: Path) -> None:
    """Raise ValueError where a certificate and its key cannot be used."""
    for path in (certificate, key):
        if not path.is_file():
            raise ValueError(f"--tls: no file {path}; give the certificate and its key, in PEM")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        raise ValueError(
            f"--tls {certificate} {key}: cannot be used ({error}); give a certificate in PEM and the key that belongs "
            "to it, without a password"
        ) from error
