"""The README's Python example runs with the output that it shows, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from levit_np.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("[('3', 0.90") and "(2, 16, 80)" in out
    assert (tmp_path / "mine.h5").exists() and (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"levit-np \w[^`\n]*", README))))
def test_each_command_exists(command):
    """They are only parsed here; what they do is tested with each command."""
    assert _parser().parse_args(shlex.split(command)[1:]).run
