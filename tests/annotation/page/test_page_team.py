"""The labelling page for a team: links of named annotators, TLS and a public address, and who has done how much."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from certificates import self_signed
from fastapi.testclient import TestClient
from nearby import Nearby
from pageclient import TOKEN

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page import rle_codec
from fewmask.annotation.page.address import Address
from fewmask.annotation.page.links import Links
from fewmask.annotation.page.server import create_app, serve
from fewmask.annotation.page.service import LabellingService, Run

PUBLIC = "https://labels.example.org"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return pages.ask(tmp_path / "run", pages.streets(), "squares:24")


@pytest.fixture
def service(run: Run) -> Iterator[LabellingService]:
    service = LabellingService(run)
    yield service
    service.close()


def links_of(run: Run, *names: str) -> dict[str, str]:
    links = Links(run.ledger.parent)
    links.change(names, ())
    return links.tokens()


def client_at(service: LabellingService, address: Address, base: str) -> TestClient:
    return TestClient(create_app(service, TOKEN, address=address), base_url=base)


def answer_by(service: LabellingService, name: str, token: str = "token-of-a-test", **changes: Any) -> dict[str, Any]:
    question = next(iter(service.index.questions.values()))
    values = rle_codec.encode(np.where(question.inside, np.uint8(2), np.uint8(254)))
    sent = {"ledger": service.identity, "token": token, "question": question.id, "annotator": name, "kind": "answer"}
    return {**sent, "values": values, "takes_back": None, "seconds": 1.5, "clicks": 2, **changes}


# ── Links ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_links_are_their_owners_alone_and_are_revoked(tmp_path: Path) -> None:
    links = Links(tmp_path)
    assert links.tokens() == {}
    links.change(["anna", "ben"], [])
    assert stat.S_IMODE(links.path.stat().st_mode) == 0o600
    tokens = links.tokens()
    assert list(tokens) == ["anna", "ben"] and len(set(tokens.values())) == 2
    assert all(len(token) >= 32 for token in tokens.values())
    assert links.annotator(tokens["anna"].encode()) == "anna"
    assert links.annotator(b"") is None and links.annotator(tokens["anna"][:-1].encode()) is None
    links.change([], ["anna"])
    assert links.annotator(tokens["anna"].encode()) is None
    assert links.annotator(tokens["ben"].encode()) == "ben"
    links.change(["ben"], ["ben"])  # a new one in the place of the old one
    assert links.annotator(tokens["ben"].encode()) is None
    assert links.annotator(links.tokens()["ben"].encode()) == "ben"


@pytest.mark.parametrize(
    ("added", "revoked", "message"),
    [
        (["anna"], [], "--add 'anna': has a link already"),
        (["ben", ""], [], "--add: annotator '' is no name"),
        (["x\x07"], [], "cannot be seen"),
        (["x" * 81], [], "longer than 80"),
        ([], ["ben"], "--revoke 'ben': has no link; those who have: anna"),
    ],
)
def test_of_wrong_changes_nothing_is_made(tmp_path: Path, added: list[str], revoked: list[str], message: str) -> None:
    links = Links(tmp_path)
    links.change(["anna"], [])
    before = links.path.read_bytes()
    with pytest.raises(ValueError, match=message):
        links.change(added, revoked)
    assert links.path.read_bytes() == before


@pytest.mark.parametrize("how", ["copied", "readable", "damaged", "foreign", "link"])
def test_links_that_others_could_know_open_nothing(tmp_path: Path, how: str) -> None:
    links = Links(tmp_path / "run")
    links.path.parent.mkdir()
    links.change(["anna"], [])
    token = links.tokens()["anna"].encode()
    if how == "copied":
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        links = Links(tmp_path / "copy")
    elif how == "readable":
        links.path.chmod(0o644)
    elif how == "link":
        links.path.rename(tmp_path / "elsewhere.json")
        links.path.symlink_to(tmp_path / "elsewhere.json")
    else:
        links.path.write_text("{" if how == "damaged" else json.dumps({"tokens": {"anna": 5}}))
    assert links.annotator(token) is None
    assert links.names() == ()
    for act in (links.tokens, lambda: links.change(["ben"], [])):
        with pytest.raises(ValueError, match=r"links.json: .*[Rr]emove it"):
            act()


# ── The address ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("host", "public", "message"),
    [
        ("0.0.0.0", None, "--host 0.0.0.0: without TLS others on the way could read"),
        ("192.168.1.5", None, "--tls CERTIFICATE KEY, or --public-url"),
        ("::", None, "without TLS"),
        ("example.org", None, "no address of a network card"),
        ("127.0.0.1", "http://labels.example.org", "does not begin with https://"),
        ("127.0.0.1", "labels.example.org", "does not begin with https://"),
        ("127.0.0.1", "https://", "names no machine"),
        ("127.0.0.1", "https://ann@labels.example.org", "a user, a query"),
        ("127.0.0.1", "https://labels.example.org/?a=b", "a user, a query"),
        ("127.0.0.1", "https://labels.example.org:99999", "Port out of range"),
        ("127.0.0.1", "https://lábels.example.org", "names no machine"),
    ],
)
def test_nothing_is_served_without_encryption(host: str, public: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Address(host, public)


def test_a_certificate_is_checked_before_people_come(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with pytest.raises(ValueError, match="nobody can open this address; give --public-url"):
        Address("0.0.0.0", None, (certificate, key))
    with pytest.raises(ValueError, match=r"--tls: no file .*missing.pem"):
        Address(certificate=(certificate, tmp_path / "missing.pem"))
    with pytest.raises(ValueError, match=r"--tls .*: cannot be used"):
        Address(certificate=(key, certificate))
    assert Address("0.0.0.0", PUBLIC, (certificate, key)).port == 443
    assert Address("0.0.0.0", f"{PUBLIC}:8443", (certificate, key)).port == 8443
    assert Address("192.168.1.5", None, (certificate, key)).base(8000) == "https://192.168.1.5:8000"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("labels.example.org", None, 200),
        ("labels.example.org:443", PUBLIC, 200),
        ("LABELS.example.org", PUBLIC, 200),
        ("labels.example.org", "https://evil.example.org", 403),
        ("labels.example.org", "http://labels.example.org", 403),
        ("labels.example.org:8443", None, 403),
        ("evil.example.org", None, 403),
        ("labels.example.org.evil.org", None, 403),
        ("127.0.0.1:8123", None, 403),
        ("localhost", None, 403),
        ("", None, 403),
    ],
)
def test_host_and_origin_are_those_of_the_public_address(
    service: LabellingService, host: str, origin: str | None, status: int
) -> None:
    token = links_of(service.run, "anna")["anna"]
    client = client_at(service, Address(public=PUBLIC), PUBLIC)
    headers = {"host": host} | ({"origin": origin} if origin else {})
    reply = client.get(f"/{token}/api/session", headers=headers)
    assert reply.status_code == status
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["referrer-policy"] == "no-referrer"


EVERYTHING = (
    "",
    "api/session",
    "api/images/1",
    "api/questions/1",
    "api/team",
    "api/review",
    "review",
    "static/main.js",
)


@pytest.mark.parametrize("path", EVERYTHING)
def test_without_a_valid_link_nothing_is_shown(service: LabellingService, path: str) -> None:
    """Neither by the owner's token, nor without one, nor by a link that is revoked while the server runs."""
    tokens = links_of(service.run, "anna", "ben")
    client = client_at(service, Address(public=PUBLIC), PUBLIC)
    assert client.get(f"/{tokens['anna']}/{path}").status_code == 200
    Links(service.run.ledger.parent).change([], ["anna"])
    replies = [client.get(f"/{head}{path}") for head in ("", f"{TOKEN}/", f"{tokens['anna']}/", f"{'x' * 32}/")]
    assert {reply.status_code for reply in replies} == {403}
    assert len({reply.text for reply in replies}) == 1 and len(replies[0].text) < 200
    assert client.get(f"/{tokens['ben']}/{path}").status_code == 200
    assert client.get(f"/{tokens['ben']}").status_code == 403


def test_on_this_machine_the_owners_link_and_named_ones_open_the_page(service: LabellingService) -> None:
    token = links_of(service.run, "anna")["anna"]
    client = client_at(service, Address(), "http://127.0.0.1:8123")
    sessions = [client.get(f"/{head}/api/session").json() for head in (TOKEN, token)]
    assert [session["named"] for session in sessions] == [False, True]
    assert sessions[1]["annotator"] == "anna"
    assert client.post(f"/{TOKEN}/api/answers", json=answer_by(service, "whoever")).status_code == 200


def test_nobody_acts_as_somebody_else(service: LabellingService) -> None:
    tokens = links_of(service.run, "anna", "ben")
    client = client_at(service, Address(public=PUBLIC), PUBLIC)
    number = next(iter(service.index.questions))

    def post(name: str, where: str, body: dict[str, Any]) -> Any:
        return client.post(f"/{tokens[name]}/api/{where}", json=body)

    assert post("anna", "answers", answer_by(service, "anna", "token-of-anna")).status_code == 200
    lease = {"window": "window-of-ben", "annotator": "anna", "question": number}
    verdict = {"ledger": service.identity, "token": "token-of-verdict", "answer": 1, "reviewer": "anna"}
    retraction = {"kind": "retract", "values": None, "takes_back": "token-of-anna"}
    refused = [
        post("ben", "answers", answer_by(service, "anna", "another-token")),
        post("ben", "answers", answer_by(service, "ben", "another-token", **retraction)),
        post("ben", "answers", answer_by(service, "anna", "another-token", **retraction)),
        post("ben", "leases", lease),
        post("ben", "verdicts", {**verdict, "kind": "reject", "comment": ""}),
    ]
    assert [reply.status_code for reply in refused] == [409] * 5
    assert all("this link is ben's" in reply.json()["error"] for reply in refused)
    with Ledger(service.run.ledger) as ledger:
        assert [answer.annotator for answer in ledger.answers()] == ["anna"]
        assert ledger.verdicts() == []
    assert service.leases.held() == {}
    assert client.get(f"/{tokens['ben']}/api/review?state=all").json()["annotator"] == "ben"


def test_the_team_is_who_has_a_link_who_worked_and_who_is_there(service: LabellingService) -> None:
    tokens = links_of(service.run, "anna", "ben", "cyd")
    client = client_at(service, Address(public=PUBLIC), PUBLIC)
    number = list(service.index.questions)[1]

    def team() -> dict[str, Any]:
        people = client.get(f"/{tokens['cyd']}/api/team").json()["people"]
        return {person.pop("name"): person for person in people}

    assert {name: person["seen"] for name, person in team().items()} == {"anna": None, "ben": None, "cyd": None}
    client.post(f"/{tokens['anna']}/api/answers", json=answer_by(service, "anna"))
    client.post(
        f"/{tokens['ben']}/api/leases", json={"window": "window-of-ben", "annotator": "ben", "question": number}
    )
    client.get(f"/{tokens['cyd']}/api/changes/0")
    found = team()
    assert all(person.pop("seen") for person in found.values())
    nothing = {"answered": 0, "skipped": 0, "seconds": 0.0, "questions": []}
    assert found == {
        "anna": {**nothing, "answered": 1, "seconds": 1.5},
        "ben": {**nothing, "questions": [number]},
        "cyd": nothing,
    }
    Links(service.run.ledger.parent).change([], ["anna"])
    assert team()["anna"]["answered"] == 1  # the answers stay
    with closing(LabellingService(service.run)) as restarted:
        again = client_at(restarted, Address(public=PUBLIC), PUBLIC)
        people = again.get(f"/{tokens['cyd']}/api/team").json()["people"]
        assert {person["name"]: bool(person["seen"]) for person in people} == {"anna": True, "ben": False, "cyd": False}


# ── Real servers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_page_for_others_is_not_served_before_somebody_has_a_link(run: Run) -> None:
    with pytest.raises(ValueError, match=r"nobody has a link.*fewmask links .*run --add NAME"):
        serve(run.ledger.parent, run, tell=pytest.fail, address=Address(public=PUBLIC))
    links_of(run, "anna")
    Links(run.ledger.parent).path.chmod(0o644)
    with pytest.raises(ValueError, match=r"links.json: copied, moved, or readable by others"):
        serve(run.ledger.parent, run, tell=pytest.fail, address=Address(public=PUBLIC))


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[Nearby, Callable[[str], tuple[int, bytes]]]]:
    certificate, key = self_signed(tmp_path)
    server = Nearby(tmp_path / "run", "squares:24", address=Address(certificate=(certificate, key)))
    trust = ssl.create_default_context(cafile=str(certificate))

    def ask(path: str) -> tuple[int, bytes]:
        url = f"{server.address.base(server.port)}{path}"
        try:
            with urllib.request.urlopen(url, context=trust, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    yield server, ask
    server.kill()


def test_a_server_with_a_certificate(encrypted: tuple[Nearby, Callable[[str], tuple[int, bytes]]]) -> None:
    server, ask = encrypted
    links = Links(server.folder)
    links.change(["anna"], [])  # while it runs
    token = links.tokens()["anna"]
    status, body = ask(f"/{token}/api/session")
    assert status == 200 and json.loads(body)["annotator"] == "anna"
    assert ask(f"/{token}/")[0] == 200
    own = server.link.rstrip("/").rpartition("/")[2]
    assert ask(f"/{own}/api/session")[0] == 403
    assert ask("/")[0] == 403
    links.change([], ["anna"])
    assert ask(f"/{token}/api/session")[0] == 403
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain:
        plain.sendall(f"GET /{token}/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        assert b"HTTP/1.1 200" not in plain.recv(4096)  # nothing is answered without TLS


def test_a_page_behind_a_proxy_is_served_by_its_public_address(run: Run) -> None:
    """The proxy speaks TLS, keeps the Host, and passes on everything else."""
    server = Nearby(run.ledger.parent, "squares:24", address=Address(public=PUBLIC))
    try:
        token = links_of(run, "anna")["anna"]

        def ask(host: str) -> int:
            request = urllib.request.Request(f"http://127.0.0.1:{server.port}/{token}/api/session")
            request.add_header("Host", host)
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return int(reply.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert ask("labels.example.org") == 200
        assert ask(f"127.0.0.1:{server.port}") == 403
    finally:
        server.kill()


def test_several_links_are_made_at_once(tmp_path: Path) -> None:
    links = Links(tmp_path)
    threads = [threading.Thread(target=Links(tmp_path).change, args=([f"person {i}"], [])) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(links.tokens()) == 8
