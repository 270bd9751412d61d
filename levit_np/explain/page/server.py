"""Serves the page: an image is posted, the library computes, and its page is returned.

It can be reached from this machine alone: the server listens on 127.0.0.1, answers only requests for that host (so a
foreign page whose own domain name points here is refused by its Host header), and computes only for its own pages
(Origin). waitress reads the requests, as it limits their size and does not wait for slow clients, unlike http.server.
"""

import json
import logging
import re
import secrets
from collections import OrderedDict
from threading import Lock
from typing import Callable, NamedTuple
from urllib.parse import parse_qs

from ...errors import LevitError
from ...images.decoding import MAX_BYTES

PAGES = 8  # the latest pages, which are kept so that the browser can go back to them
THREADS = 32  # a browser opens six connections: while images wait for their turn to compute, pages are still answered


class Answer(NamedTuple):
    status: str
    kind: str
    text: str


class Server:
    """A WSGI application.  compute(image bytes, its name, number of the weights, target or None) -> the page's HTML, or
    raises LevitError, whose message the page shows."""

    def __init__(self, first: str, compute: Callable[[bytes, str, int, str | None], str], weights: int):
        self._first, self._compute, self._weights = first, compute, weights
        self._pages, self._lock, self.port = OrderedDict(), Lock(), 0

    def __call__(self, environ, start_response):
        answer = self._answer(environ)
        body = answer.text.encode()
        start_response(answer.status, [
            ("Content-Type", f"{answer.kind}; charset=utf-8"), ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
            ("X-Frame-Options", "DENY"), ("Cross-Origin-Resource-Policy", "same-origin")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]  # waitress would send HEAD's body

    def _answer(self, environ) -> Answer:
        port = "" if self.port == 80 else f":{self.port}"  # as browsers send it
        names = [f"{name}{port}" for name in ("127.0.0.1", "localhost")]
        if environ.get("HTTP_HOST") not in names:
            return _refusal("403 Forbidden", f"expected the address http://{names[0]}/")
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if method == "POST" and path == "/compute":
            if environ.get("HTTP_ORIGIN") != f"http://{environ['HTTP_HOST']}":
                return _refusal("403 Forbidden", "expected a request of this server's own page")
            return self._computed(environ)
        if method not in ("GET", "HEAD"):
            return _refusal("405 Method Not Allowed", f"expected GET, found {method!a:.20}")
        if path == "/":
            return Answer("200 OK", "text/html", self._first)
        if page := self._pages.get(path.removeprefix("/page/")):
            return Answer("200 OK", "text/html", page)
        return _refusal("404 Not Found", "no such page, or no longer")

    def _computed(self, environ) -> Answer:
        """Computes the page of a posted image; -> its address."""
        try:
            query = parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=8)
        except ValueError:
            return _refusal("400 Bad Request", "expected name, weights and target, found more than 8 fields")
        name, weights, target = (query.get(key, [""])[0] for key in ("name", "weights", "target"))
        if not re.fullmatch(r"\d{1,4}", weights or "0") or int(weights or 0) >= self._weights:
            return _refusal("400 Bad Request",
                            f"weights: expected a number below {self._weights}, found {weights!a:.20}")
        length = environ.get("CONTENT_LENGTH") or ""
        if not length.isdecimal() or not 0 < int(length) <= MAX_BYTES:
            return _refusal("413 Content Too Large", "expected an image of at most 50 MB")
        data = environ["wsgi.input"].read(int(length))
        name = "".join(letter for letter in name if letter.isprintable())[:80] or "image"
        try:
            with self._lock:  # one at a time, as each uses the whole processor
                page = self._compute(data, name, int(weights or 0), target or None)
        except LevitError as error:
            return _refusal("400 Bad Request", str(error))
        except MemoryError as error:
            return _refusal("503 Service Unavailable", str(error) or "expected more memory, found too little")
        key = secrets.token_urlsafe(12)
        self._pages[key] = page
        while len(self._pages) > PAGES:
            self._pages.popitem(last=False)
        return Answer("200 OK", "application/json", json.dumps({"page": f"/page/{key}"}))


def _refusal(status: str, reason: str) -> Answer:
    return Answer(status, "text/plain", f"{reason}\n")


def listen(server: Server, port: int = 0):
    """-> a server object whose `run` serves http://127.0.0.1:`effective_port`/ until Ctrl-C.

    port 0: any free one.  Raises LevitError if waitress is not installed or the port is taken."""
    try:
        from waitress import create_server
    except ImportError:
        raise LevitError("serving needs waitress: pip install 'levit_np[serve]'") from None
    try:
        running = create_server(server, host="127.0.0.1", port=port, threads=THREADS, ident=None,
                                expose_tracebacks=False, max_request_body_size=MAX_BYTES, max_request_header_size=16384,
                                channel_timeout=30, connection_limit=64)
    except OSError as error:
        raise LevitError(f"port {port}: expected a free one: {error.strerror}") from None
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # no warnings that requests wait in the queue
    server.port = running.effective_port
    return running
