"""`levit-np explain --serve`: a server in a process of its own, asked over sockets and by a browser, and ended by
Ctrl-C."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest

from levit_np.explain.page.server import Server, listen

from .chromium import PROGRAM, Chromium

ROOT = Path(__file__).resolve().parents[2]
DIGIT = ROOT / "weights/samples/digit_7.png"
pytest.importorskip("waitress")


@pytest.fixture(scope="module")
def port():
    """The port of a server that knows the digits' weights twice, by name and by path."""
    command = [sys.executable, "-m", "levit_np.cli", "explain", "--serve", "--weights", "levit_digits.h5",
               "--weights", "weights/levit_digits.h5"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        address = process.stdout.readline().split()[0]
        try:
            yield int(address.split(":")[2].split("/")[0])
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def ask(port, method, path, body=None, **headers):
    """(status, headers, text) of a request. A header of None is not sent; without Host or Origin the server's own are
    sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    if "Origin" not in headers and method == "POST":
        headers["Origin"] = f"http://127.0.0.1:{port}"
    connection.request(method, path, body, {key: value for key, value in headers.items() if value is not None})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_an_image_becomes_a_page(port):
    status, _, text = ask(port, "POST", "/compute?name=seven&weights=1&target=7", DIGIT.read_bytes())
    assert status == 200
    status, headers, page = ask(port, "GET", json.loads(text)["page"])
    assert status == 200 and "<title>levit_digits: seven</title>" in page and headers["Cache-Control"] == "no-store"
    assert "connect-src 'self'" in page and '"chosen":1' in page and '"target":7' in page


@pytest.mark.parametrize("path, body, reason", [
    ("/compute", b"no image", "expected a JPEG, PNG or WebP"), ("/compute", b"", "50 MB"),
    ("/compute?weights=2", b"x", "below 2"), ("/compute?weights=-1", b"x", "below 2"),
    ("/compute?target=none", None, "expected a name"),
    ("/compute?" + "&".join(f"a{n}=1" for n in range(9)), None, "more than 8 fields"),
])
def test_what_cannot_be_computed_is_refused_with_a_reason(port, path, body, reason):
    status, _, text = ask(port, "POST", path, DIGIT.read_bytes() if body is None else body)
    assert status in (400, 413) and reason in text and "Traceback" not in text


def test_requests_at_the_same_time_wait_without_warnings(port):
    """More requests than it has threads; the fixture checks in the end that nothing was written to stderr."""
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: ask(port, "POST", "/compute", DIGIT.read_bytes())[0], range(6)))
    assert found == [200] * 6


def test_a_page_is_served_while_images_wait_to_be_computed():
    go_on = Event()
    server = Server("the first page", lambda *image: go_on.wait() and "a page", 1)
    serving = Thread(target=(running := listen(server)).run)
    serving.start()
    with ThreadPoolExecutor(6) as pool:
        try:
            waiting = [pool.submit(ask, server.port, "POST", "/compute", b"an image") for _ in range(6)]
            while len(running.task_dispatcher.queue) + running.task_dispatcher.active_count < 6:
                time.sleep(0.01)
            with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
                connection.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
                assert connection.makefile().read().endswith("the first page")
        finally:
            go_on.set()
            assert [answer.result()[0] for answer in waiting] == [200] * 6
            running.trigger.pull_trigger(running.close)
            serving.join()


def test_what_is_too_large_is_refused_before_it_is_read(port):
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(f"POST /compute HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
                           "Content-Length: 900000000\r\n\r\n".encode() + b"x" * 1000)
        assert connection.recv(100).split()[1] == b"413"


@pytest.mark.parametrize("headers", [{"Host": "levit.example:80"}, {"Host": "127.0.0.1"}, {"Host": "localhost:1"}])
def test_another_host_name_is_refused(port, headers):
    """Otherwise a web page could let its own name resolve to 127.0.0.1 and have this server's origin."""
    assert ask(port, "GET", "/", **headers)[0] == 403


def test_on_port_80_the_host_header_has_no_port():
    (server := Server("a page", None, 1)).port = 80
    status = []
    for host in ("127.0.0.1", "localhost", "127.0.0.1:8080", "levit.example"):
        server({"HTTP_HOST": host, "REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda text, _: status.append(text[:3]))
    assert status == ["200", "200", "403", "403"]


@pytest.mark.parametrize("error, said", [
    (MemoryError("photo.jpg: too little memory to decode it"), "photo.jpg: too little memory to decode it\n"),
    (MemoryError(), "expected more memory, found too little\n")])
def test_an_image_that_does_not_fit_in_memory_is_answered(error, said):
    def compute(*image):
        raise error

    (server := Server("the first page", compute, 1)).port = 80
    asked = {"HTTP_HOST": "localhost", "HTTP_ORIGIN": "http://localhost", "REQUEST_METHOD": "POST",
             "PATH_INFO": "/compute", "CONTENT_LENGTH": "1", "wsgi.input": io.BytesIO(b"a")}
    status = []
    assert server(asked, lambda text, _: status.append(text)) == [said.encode()]
    assert status == ["503 Service Unavailable"]


@pytest.mark.parametrize("origin", [None, "null", "http://levit.example", "http://127.0.0.1:1"])
def test_a_request_of_another_page_is_refused(port, origin):
    assert ask(port, "POST", "/compute", DIGIT.read_bytes(), Origin=origin)[0] == 403


def test_it_listens_on_this_machine_alone(port):
    name = socket.gethostbyname(socket.gethostname())
    if name.startswith("127."):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing, but determines the outgoing address
            except OSError:
                pytest.skip("this machine has no other address")
            name = probe.getsockname()[0]
    with pytest.raises(OSError):
        socket.create_connection((name, port), 5).close()


def test_a_port_that_is_taken(port):
    command = [sys.executable, "-m", "levit_np.cli", "explain", "--serve", "--port", str(port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"levit-np explain: port {port}: expected a free one")
    assert done.stderr.count("\n") == 1


def test_other_paths_and_methods(port):
    assert {ask(port, "GET", path)[0] for path in ("/etc/passwd", "/page/none", "/page/")} == {404}
    assert ask(port, "DELETE", "/")[0] == 405


def test_the_answer_to_head_has_no_body(port):
    """On a connection that is kept, its body would be read as the start of the next answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for path, status in ("/", 200), ("/none", 404):
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert answer.status == status and answer.read() == b"" and int(answer.getheader("Content-Length")) > 0
    connection.close()


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (apt-get install chromium)")
def test_a_drawn_digit_is_answered(port):
    with Chromium() as browser:
        browser.open(f"http://127.0.0.1:{port}/#/live")
        box = browser.js("(() => { document.querySelector('canvas.digit').scrollIntoView(); const b = "
                         "document.querySelector('canvas.digit').getBoundingClientRect(); return [b.x, b.y]; })()")
        browser.draw([(box[0] + 140, box[1] + y) for y in range(20, 261, 20)])  # the digit one
        browser.js("document.querySelector('main button.main').click()")
        browser.wait("location.pathname.startsWith('/page/') && document.documentElement.dataset.ready")
        assert browser.js("doc.labels[doc.top[0]]") == "1"
        assert not browser.errors and {url.split("/")[2] for url in browser.requests} == {f"127.0.0.1:{port}"}
