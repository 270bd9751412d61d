"""Weights by name: where they are looked for, and how they are downloaded, from an https server on this machine that
misbehaves in every way. `localhost.pem` is a certificate for 127.0.0.1 with its key, useless elsewhere."""

import _thread
import contextlib
import errno
import hashlib
import os
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import levit_np
from levit_np.checkpoints import hub
from levit_np.errors import CheckpointError
from levit_np.storage import confined

from ..random_model import random_model
from . import attacks_torch

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATE = Path(__file__).with_name("localhost.pem")
NAME = "levit_128s.h5"
POSIX = pytest.mark.skipif(os.name == "nt", reason="permission bits")


class Server(ThreadingHTTPServer):
    """Answers every request with `answer(handler)`; `asked` lists the requested paths."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked, self.answer = [], None
        self.url = f"https://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):
        pass  # a client that disconnects, or does not trust the certificate


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.answer(self)

    def reply(self, body=b"", status=200, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def model():
    return random_model("levit_digits")


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "a.pth"
    levit_np.export(model, path, format="facebook")
    return path.read_bytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("LEVIT_NP_CACHE", str(tmp_path / "home" / "cache"))
    return tmp_path / "home" / "cache"


@pytest.fixture
def server(cache, content, monkeypatch):
    """Serves `content` under the name and with the hash of levit_128s.h5."""
    server = Server()
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setenv("no_proxy", "*")
    publish(monkeypatch, server, content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(monkeypatch, server, content):
    monkeypatch.setattr(hub, "AUTHORS", server.url)
    theirs = f"LeViT-128S-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(hub, "PUBLISHED", {NAME: theirs})
    server.answer = lambda handler: handler.reply(content)


def same(model, other):
    return all(np.array_equal(array, other.state()[name]) for name, array in model.state().items())


def test_a_published_name_is_downloaded_converted_and_kept(server, cache, model, capsys):
    found = levit_np.load(NAME)
    assert same(model, found) and found.preprocessing.name == "digits" and len(found.labels) == 10
    assert server.asked == ["/" + hub.PUBLISHED[NAME]] and os.listdir(cache) == [NAME]
    assert capsys.readouterr().out == ""
    server.answer = lambda handler: handler.reply(status=500)
    assert same(model, levit_np.load(NAME)) and len(server.asked) == 1


@POSIX
def test_the_cache_is_the_users_alone(server, cache):
    levit_np.load(NAME)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def refused(server, cache, words, by_hand=True):
    """Loading fails in one line and leaves nothing behind; unless the file itself is wrong, the line says what to fetch
    and how to convert it."""
    with pytest.raises(CheckpointError, match=words) as caught:
        levit_np.load(NAME)
    message, theirs = str(caught.value), hub.PUBLISHED[NAME]
    assert "\n" not in message and len(message) < 600
    assert (f"fetch {hub.AUTHORS}{theirs} and run levit-np convert {theirs} {NAME}" in message) == by_hand
    assert os.listdir(cache) == []


def test_another_hash_is_refused(server, cache, content):
    server.answer = lambda handler: handler.reply(content[:-1] + b"x")
    refused(server, cache, "expected a file whose SHA-256 begins", by_hand=False)


def test_a_connection_that_is_cut_is_refused(server, cache, content):
    server.answer = lambda handler: handler.reply(content[:1000], length=len(content))
    refused(server, cache, f"expected {len(content)} bytes, the connection ended after 1000")
    server.answer = lambda handler: handler.connection.close()
    refused(server, cache, "could not be downloaded")
    server.answer = lambda handler: handler.wfile.write(b"what is not HTTP\r\n\r\n")
    refused(server, cache, "could not be downloaded")


def test_a_download_without_a_content_length_works(server, cache, content, model):
    def without_length(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    server.answer = without_length
    assert same(model, levit_np.load(NAME))


def test_a_silent_server_times_out(server, cache, monkeypatch):
    monkeypatch.setattr(hub, "_PATIENCE", 0.2)
    done = threading.Event()
    server.answer = lambda handler: done.wait(20)
    refused(server, cache, "timed out")
    done.set()


def test_too_many_bytes_are_refused(server, cache, monkeypatch):
    server.answer = lambda handler: handler.reply(b"some", length=1 << 40)
    refused(server, cache, "at most 268435456 bytes, found 1099511627776")

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(64):
                handler.wfile.write(bytes(1 << 16))

    monkeypatch.setattr(hub, "_LARGEST", 1 << 20)
    server.answer = endless
    refused(server, cache, "at most 1048576 bytes, found more")


def test_a_file_of_the_largest_size_is_taken(server, cache, model, content, monkeypatch):
    monkeypatch.setattr(hub, "_LARGEST", len(content) - 1)
    refused(server, cache, f"at most {len(content) - 1} bytes, found {len(content)}")
    monkeypatch.setattr(hub, "_LARGEST", len(content))
    assert same(model, levit_np.load(NAME))


def test_a_terminal_sees_how_much_has_arrived(server, cache, content, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    levit_np.load(NAME)
    size = f"{len(content) / 1e6:.1f}"
    out, err = capsys.readouterr()
    assert out == "" and hub.PUBLISHED[NAME] in err and f"{size}/{size} MB" in err


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_is_named(server, cache, status):
    server.answer = lambda handler: handler.reply(b"sorry", status=status)
    refused(server, cache, str(status))


def test_redirects_stay_on_https(server, cache, model, content):
    for target, words in (("http://127.0.0.1:1/a.pth", "expected https, was redirected to http://127.0.0.1:1/a.pth"),
                          ("ftp://127.0.0.1/a.pth", "expected https"), ("file:///etc/passwd", "not allowed")):
        server.answer = lambda handler: handler.reply(status=302, Location=target)
        refused(server, cache, words)
    there = server.url.replace("https", "HTTPS") + "there"
    server.answer = lambda handler: (handler.reply(content) if handler.path == "/there" else
                                     handler.reply(status=302, Location=there))
    assert same(model, levit_np.load(NAME))


def test_a_server_without_a_trusted_certificate_is_refused(server, cache, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    refused(server, cache, "CERTIFICATE_VERIFY_FAILED")
    assert server.asked == []


def test_without_a_network_one_line_says_what_to_do(server, cache, monkeypatch):
    monkeypatch.setattr(hub, "AUTHORS", "https://127.0.0.1:1/")
    refused(server, cache, "Connection refused|refused")
    monkeypatch.setattr(hub, "AUTHORS", "https://nowhere.invalid/")
    refused(server, cache, "could not be downloaded")

    def fails(url):
        raise TimeoutError  # an exception without a message

    monkeypatch.setattr(hub, "_opened", fails)
    refused(server, cache, r"could not be downloaded \(TimeoutError\)")


def test_the_hash_does_not_make_a_file_trusted(server, cache, monkeypatch):
    for name in list(attacks_torch.ATTACKS)[::60]:
        publish(monkeypatch, server, attacks_torch.ATTACKS[name].data)
        with pytest.raises(CheckpointError):
            levit_np.load(NAME)
        assert os.listdir(cache) == []


def test_an_interrupt_leaves_nothing(server, cache, content, monkeypatch):
    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        _thread.interrupt_main()
        done.wait(20)

    done = threading.Event()
    server.answer = half
    with pytest.raises(KeyboardInterrupt):
        levit_np.load(NAME)
    done.set()
    assert os.listdir(cache) == []

    def interrupted(*arguments, **limits):
        raise KeyboardInterrupt

    server.answer = lambda handler: handler.reply(content)
    monkeypatch.setattr(confined, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        levit_np.load(NAME)
    assert os.listdir(cache) == []


def test_two_processes_at_once(server, cache, content, model):
    together = threading.Barrier(2)

    def answer(handler):
        together.wait(60)
        handler.reply(content)

    server.answer = answer
    code = (f"import sys; sys.path[:] = {sys.path!r}\nimport levit_np\nfrom levit_np.checkpoints import hub\n"
            f"hub.AUTHORS, hub.PUBLISHED = {hub.AUTHORS!r}, {hub.PUBLISHED!r}\nlevit_np.load({NAME!r})")
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len(server.asked) == 2 and os.listdir(cache) == [NAME] and same(model, levit_np.load(NAME))


def test_where_the_cache_cannot_be_written_the_weights_are_loaded_but_not_kept(server, cache, model):
    cache.parent.write_text("a file where the cache's folder should be")
    for _ in range(2):
        with pytest.warns(UserWarning, match="will not be kept") as caught:
            assert same(model, levit_np.load(NAME))
        assert caught[0].filename == __file__
    assert len(server.asked) == 2


def test_a_cache_on_a_full_disk_is_noticed_before_the_download(server, cache, model, monkeypatch):
    temporary = tempfile.TemporaryFile

    def full(*arguments, dir=None, **options):
        if dir == str(cache):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return temporary(*arguments, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.warns(UserWarning, match="cache: No space left on device: the downloaded weights will not be kept"):
        assert same(model, levit_np.load(NAME))
    assert os.listdir(cache) == []


def test_the_order_of_places(cache, model):
    for place, classes in (("", 2), ("weights", 3), (cache, 4)):
        os.makedirs(place or ".", exist_ok=True)
        random_model("levit_digits", num_classes=classes).save(os.path.join(place, NAME))
    assert levit_np.load(NAME).config.num_classes == levit_np.load(os.fsencode(NAME)).config.num_classes == 2
    os.unlink(NAME)
    assert levit_np.load(NAME).config.num_classes == 3
    shutil.rmtree("weights")
    assert levit_np.load(NAME).config.num_classes == 4
    shutil.copy(cache / NAME, cache / "levit_digits.h5")
    assert levit_np.load("levit_digits.h5").config.num_classes == 10  # ships with the package
    with pytest.raises(CheckpointError, match="^levit_1.h5: expected a weight file, found none here.*levit_128s.h5, "):
        levit_np.load("levit_1.h5")
    with pytest.raises(CheckpointError, match="No such file"):
        levit_np.load(f"./{NAME}")  # a path is looked for only where it points
    with pytest.raises(CheckpointError, match="^expected the path or the name of a weight file, found an empty text$"):
        levit_np.load("")


def test_the_weights_of_an_installed_package_are_found(cache, monkeypatch):
    """They lie where pyproject.toml puts them beside the code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    site = cache.parent / "site-packages"
    for source, target in project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items():
        (site / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, site / target)
    monkeypatch.setattr(hub, "__file__", str(site / "levit_np" / "checkpoints" / "hub.py"))
    assert levit_np.load("levit_digits.h5").config.num_classes == 10
