"""The cache folder (compiled kernels, downloaded weights): where it is on each platform, and that only its owner may
write there."""

import os
import sys
from pathlib import Path

import pytest

from levit_np import cache

HOME = os.path.abspath("HOME")


def test_the_folder_on_each_platform(monkeypatch):
    for name in ("LEVIT_NP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", HOME))
    for platform, variable, default in (("linux", "XDG_CACHE_HOME", ".cache"), ("darwin", None, "Library/Caches"),
                                        ("win32", "LOCALAPPDATA", "AppData/Local")):
        monkeypatch.setattr(sys, "platform", platform)
        assert Path(cache.directory()) == Path(HOME, default, "levit_np")
        if variable:
            monkeypatch.setenv(variable, os.path.abspath("BASE"))
            assert Path(cache.directory()) == Path(os.path.abspath("BASE"), "levit_np")
            monkeypatch.setenv(variable, "relative")
            assert Path(cache.directory()) == Path(HOME, default, "levit_np")
    monkeypatch.setenv("LEVIT_NP_CACHE", "MINE")
    assert cache.directory() == "MINE"
    monkeypatch.setenv("LEVIT_NP_CACHE", "~/mine")  # as in a Dockerfile
    assert cache.directory() == f"{HOME}/mine"


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/null")
def test_a_user_without_a_home_has_no_folder(tmp_path, monkeypatch):
    """In a container whose user is unknown, expanduser leaves ~ unchanged."""
    for name in ("LEVIT_NP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError):
        cache.make()
    assert os.listdir(tmp_path) == []


def test_it_is_made_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LEVIT_NP_CACHE", str(tmp_path / "a" / "b"))
    assert cache.make() == tmp_path / "a" / "b" and cache.make().stat().st_mode & 0o777 == 0o700
    assert cache.is_ours(cache.make().stat())


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners and permissions")
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    for mode, ours in ((0o700, True), (0o755, True), (0o775, False), (0o777, False), (0o702, False)):
        tmp_path.chmod(mode)
        assert cache.is_ours(tmp_path.stat()) == ours
    tmp_path.chmod(0o700)
    status = list(tmp_path.stat())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # the tests may be root's
    for owner, ours in ((0, True), (1000, True), (1001, False)):
        status[4] = owner
        assert cache.is_ours(os.stat_result(status)) == ours
    monkeypatch.delattr(os, "geteuid")  # as on Windows
    assert cache.is_ours(os.stat_result(status))
