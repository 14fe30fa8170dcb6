"""The real Label Studio in a process of its own, and the people who work there: what their browsers would send.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

BIN = Path(os.environ.get("LABEL_STUDIO", Path(__file__).parents[2] / ".venv-label-studio/bin/label-studio")).absolute()
PATIENCE = 900.0
"""Seconds until it is healthy: half a minute on a machine with nothing else to do."""

# Run in Label Studio's environment: its own library packs masks as its tools do, and unpacks them.
CODER = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle
masks = np.load(sys.argv[1])
rles = [mask2rle(np.uint8(255) * m) for m in masks]
for line in json.load(sys.stdin):
    print(json.dumps(np.flatnonzero(decode_rle(line)[3::4] > 127).tolist()))
print(json.dumps(rles))
"""


class Trap:
    """A proxy that lets nothing out and counts who tries."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.tried: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.tried.append(connection.recv(200).decode(errors="replace").split("\r\n")[0])

    def close(self) -> None:
        self._socket.close()


class Server:
    """A fresh Label Studio with SQLite in a folder, which serves files below `files` and asks nobody outside."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.trap = Trap()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._log = folder / "label-studio.log"
        (folder / "home").mkdir(parents=True)
        settings = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "HTTP_PROXY": self.trap.address,
            "HTTPS_PROXY": self.trap.address,
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
            "OMP_NUM_THREADS": "1",
        }
        place = ["--data-dir", str(folder / "data"), "--internal-host", "127.0.0.1", "--port", str(port)]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [BIN, "start", "--no-browser", "--log-level", "WARNING", *place],
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.address}/health", timeout=20).json() == {"status": "UP"}:
                    return
            except (httpx.TransportError, ValueError):
                pass
            assert self._process.poll() is None, self.log()
            time.sleep(0.5)
        raise TimeoutError(self.log())

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # a group of our own
        self._process.wait()
        self.trap.close()


class Person:
    """Somebody who signs up and works in a browser: a session with cookies, no token."""

    def __init__(self, address: str, name: str, invited: str = "") -> None:
        self.client = httpx.Client(base_url=address, timeout=PATIENCE)
        page = f"/user/signup/{invited and '?token='}{invited}"
        assert self.client.get(page).status_code == 200
        form = {"email": f"{name}@example.org", "password": f"{name} likes masks", "allow_newsletters": "false"}
        form["csrfmiddlewaretoken"] = self.client.cookies["csrftoken"]
        done = self.client.post(page, data=form, headers={"Referer": address})
        assert done.status_code == 302, done.text
        self.id = int(self.get("/api/current-user/whoami")["id"])

    def get(self, path: str, **query: Any) -> Any:
        return self._done(self.client.get(path, params=query or None)).json()

    def download(self, path: str, **query: Any) -> bytes:
        return self._done(self.client.get(path, params=query or None)).content

    def send(self, method: str, path: str, data: Any = None, **more: Any) -> Any:
        headers = {"X-CSRFToken": self.client.cookies["csrftoken"], "Referer": str(self.client.base_url)}
        reply = self._done(self.client.request(method, path, json=data, headers=headers, **more))
        return reply.json() if reply.content else None

    def _done(self, reply: httpx.Response) -> httpx.Response:
        assert reply.is_success, f"{reply.request.url}: {reply.status_code} {reply.text[:2000]}"
        return reply

    def invitation(self) -> str:
        return str(self.get("/api/invite")["token"])

    def personal_token(self) -> str:
        return str(self.send("POST", "/api/token/")["token"])

    def legacy_token(self) -> str:
        return str(self.get("/api/current-user/token")["token"])

    def allow_legacy_tokens(self, allowed: bool) -> None:
        self.send("POST", "/api/jwt/settings", {"legacy_api_tokens_enabled": allowed, "api_tokens_enabled": True})

    def tasks(self, project: int) -> list[dict[str, Any]]:
        return list(self.get("/api/tasks/", project=project, page_size=1000, fields="all")["tasks"])

    def submit(
        self, task: Mapping[str, Any], results: Sequence[Mapping[str, Any]], seconds: float, skip: bool = False
    ) -> int:
        """What the buttons Submit and Skip send; returns the annotation's id."""
        made = self.send(
            "POST",
            f"/api/tasks/{task['id']}/annotations/",
            {
                "result": list(results),
                "lead_time": seconds,
                "was_cancelled": skip,
                "draft_id": 0,
                "started_at": "2026-01-01T00:00:00Z",
            },
            params={"project": task["project"]},
        )
        return int(made["id"])

    def update(self, annotation: int, results: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """What the button Update sends."""
        self.send("PATCH", f"/api/annotations/{annotation}/", {"result": list(results), "lead_time": seconds})


def coded(masks: Sequence[np.ndarray], rles: Sequence[Sequence[int]], folder: Path) -> tuple[list[list[int]], Any]:
    """By Label Studio's own library: masks (H,W) bool as codes, and the places of the painted pixels of codes."""
    path = folder / "masks.npz"
    np.savez(path, *masks)
    python = BIN.parent / "python"
    script = CODER.replace("for m in masks", "for m in masks.values()")
    done = subprocess.run(
        [python, "-c", script, path], input=json.dumps(list(rles)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *places, packed = map(json.loads, done.stdout.splitlines())
    return packed, places


def result(mask: np.ndarray, label: str, number: str, rle: Sequence[int]) -> dict[str, Any]:
    """A brush region (H,W) as the editor sends it."""
    return {
        "id": number,
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "origin": "manual",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": list(rle), "brushlabels": [label]},
    }


def is_there() -> bool:
    """Where the variable names one, it has to be: then nothing may be skipped."""
    return "LABEL_STUDIO" in os.environ or BIN.exists()
