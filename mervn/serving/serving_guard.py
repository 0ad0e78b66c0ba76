"""Guard of `mervn serve`: passes only the requests of its own page, and keeps the page on this server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from gradio.data_classes import FileData
from pydantic import ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mervn.serving.uploads import Uploads

API = "/gradio_api"
JOIN, UPLOAD, FILE = f"{API}/queue/join", f"{API}/upload", f"{API}/file="
PAGE = frozenset(
    (
        "/", "/config", "/theme.css", "/manifest.json", "/favicon.ico", "/robots.txt", f"{API}/info",
        f"{API}/queue/data", f"{API}/upload_progress", f"{API}/startup-events", f"{API}/app_id",
    )
)  # fmt: skip
"""Paths that the page reads."""
PAGE_FOLDERS = ("/assets/", "/static/", "/svelte/")
MAX_REQUEST = 100_000
"""Maximum number of bytes of a request that is no upload; of an upload, besides the file."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response: a browser then loads nothing from another host."""
NOT_STORED = {"Cache-Control": "no-store"}
"""Header of responses with content of a visitor: no browser keeps them."""


class Guard:
    """ASGI application that wraps the one of gradio.

    It refuses routes that the page does not need, files outside the folder of uploads, addresses in
    place of uploads, and requests that are too large. It also refuses invalid inputs, which gradio
    would print.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads, inputs: Mapping[int, Sequence[bool]], max_upload: int) -> None:
        self.app, self.uploads = app, uploads
        self.inputs = inputs
        """By number of an event, for each of its inputs whether it is a file; the others are text."""
        self.max_upload = max_upload
        """Maximum number of bytes of a file."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return  # the page has no websocket
        refusal = self._refusal(scope)
        if refusal is None and scope["path"] == JOIN:
            body = await Request(scope, receive).body()
            receive = _replay(body)
            if not self._is_valid(body):
                refusal = 403, "a request must have the inputs of the page: text, and files that were uploaded"
        if refusal is not None:
            status, message = refusal
            await PlainTextResponse(message, status, HEADERS)(scope, receive, send)
            return
        await self.app(scope, receive, _Sender(self.uploads, scope, send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason if a request is refused before its body is read."""
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            if path in PAGE or path.startswith(PAGE_FOLDERS):
                return None
            if path.startswith(FILE) and self.uploads.holds(unquote(path.removeprefix(FILE))):
                return None
            return 404, "not found"
        if method != "POST" or path not in (JOIN, UPLOAD):
            return 404, "not found"
        length = Headers(scope=scope).get("content-length", "")
        if not length.isdecimal():
            return 411, "the request must have a length"
        limit = MAX_REQUEST + (self.max_upload if path == UPLOAD else 0)
        if int(length) > limit:
            return 413, f"the request must have at most {limit} bytes, found {length}"
        if path == UPLOAD and self.uploads.is_full:
            return 503, "too many uploads wait for an answer; try again in some minutes"
        return None

    def _is_valid(self, body: bytes) -> bool:
        """Tell whether a request has the inputs of an event, and its files are uploads."""
        try:
            document = json.loads(body)
            values, are_files = document["data"], self.inputs[document["fn_index"]]
            if len(values) != len(are_files):
                return False
            return all(self._is_input(value, is_file) for value, is_file in zip(values, are_files, strict=True))
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    def _is_input(self, value: Any, is_file: bool) -> bool:
        """Tell whether a value is missing, text, or an upload."""
        if value is None or not is_file:
            return value is None or isinstance(value, str)
        try:
            return self.uploads.holds(FileData.model_validate(value).path)
        except ValidationError:
            return False


class _Sender:
    """Sends a response with the headers of the guard, and counts the uploads that it confirms."""

    def __init__(self, uploads: Uploads, scope: Scope, send: Send) -> None:
        self.uploads, self.send = uploads, send
        self.is_upload = scope["path"] == UPLOAD
        self.holds_content = scope["path"].startswith(API) or scope["path"] == "/"
        self.body = b""

    async def __call__(self, message: Message) -> None:
        """Send one message of the response."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update({**HEADERS, **(NOT_STORED if self.holds_content else {})})
            self.is_upload = self.is_upload and message["status"] == 200
        elif self.is_upload:
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                for path in json.loads(self.body):
                    self.uploads.add(path)
        await self.send(message)


def _replay(body: bytes) -> Receive:
    """Return a function that gives a body which was read before, and then the end of the connection."""
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive
