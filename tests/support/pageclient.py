"""The labelling page's server without a socket, and what it answers."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from fewmask.annotation.page.server import create_app
from fewmask.annotation.page.service import LabellingService

TOKEN = "secret-token"
BASE = "http://127.0.0.1:8123"


def client_of(service: LabellingService, raises: bool = True) -> TestClient:
    """A client of the service's page. With `raises`, an exception in the server is one of the test."""
    return TestClient(create_app(service, TOKEN), base_url=BASE, raise_server_exceptions=raises)


def get(client: TestClient, path: str) -> Any:
    response = client.get(f"/{TOKEN}/api/{path}")
    assert response.status_code == 200, response.text
    return response.json()
