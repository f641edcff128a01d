"""The command `kfisher`, and that a wheel holds it."""

import importlib
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from kfisher_scripts import command_line

ROOT = pathlib.Path(__file__).parents[2]


def called(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kfisher", *arguments])
    command_line.main()


@pytest.mark.parametrize("command, room", [("compare", "comparison"), ("reproduce", "reproduction")])
def test_each_command_gets_its_options(command, room, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, command, "--help")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: kfisher {command} ")
    assert "--out" in said and f"{room}" in sys.modules[f"kfisher_scripts.{room}.command"].__name__


def test_an_unknown_command_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        called(monkeypatch, "train")
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SystemExit, match=r"mlxtend is missing.*pip install 'kfisher\[scripts\]'"):
        called(monkeypatch, "compare")


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_wheel_has_the_command_which_starts_without_a_word_of_tensorflow(tmp_path):
    source = tmp_path / "source"  # a build leaves files behind
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "build", "*.egg-info")
    )
    wheel = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*wheel, "-w", str(tmp_path)], check=True, cwd=tmp_path)
    (made,) = tmp_path.glob("kfisher-*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(tmp_path / "site")
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "kfisher = kfisher_scripts.command_line:main" in archive.read(entry).decode()
    start = "from kfisher_scripts.command_line import main; main()"
    table = tmp_path / "t.csv"
    table.write_text("a,b\n" + "".join(f"{i},{i % 3 + i}.5\n" for i in range(30)))
    options = ["--data", str(table), "--target", "b", "--optimizers", "sgd", "--epochs", "3"]
    ended = subprocess.run(
        [sys.executable, "-c", start, "compare", *options, "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert str(tmp_path / "out" / "t.csv") in ended.stdout
    assert not re.search("^[IWE]0000|absl::|cuda|oneDNN", ended.stderr, re.M), ended.stderr
