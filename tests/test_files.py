"""Files are written whole or not at all, and every damage is noticed."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from helpers import flip_bit

from pyro_kanerva import _files

KILLED = """
import os, signal, sys
from pyro_kanerva import _files
_files.write_whole(sys.argv[1], lambda file: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.parametrize("kind", ["memory", "checkpoint"])
def test_every_damage_is_noticed(tmp_path, kind):
    path, random = tmp_path / "file", np.random.default_rng(0)
    _files.save(path, kind, {"size": 3}, {"loc": torch.randn(20, 7), "step": 4})
    whole = path.read_bytes()
    header, state = _files.load(path, kind)
    assert header == {"size": 3}
    assert state["step"] == 4
    for place in (*range(100), *random.integers(0, len(whole), 300)):
        path.write_bytes(flip_bit(whole, place, random.integers(8)))
        with pytest.raises(ValueError, match="file"):
            _files.load(path, kind)
    for cut in random.integers(0, len(whole), 50):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="file"):
            _files.load(path, kind)
    for more in (b"\0", whole):
        path.write_bytes(whole + more)
        with pytest.raises(ValueError, match="damaged"):
            _files.load(path, kind)


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    _files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_mode_of_the_process(tmp_path):
    _files.write_text(tmp_path / "file", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_up_to_the_limit_of_the_system(tmp_path):
    name = "n" * 255
    _files.write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_what_a_killed_write_left_is_removed_by_the_next_one(tmp_path):
    path = tmp_path / "file"
    _files.write_text(path, "old")
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -signal.SIGKILL
        assert path.read_text() == "old"
        assert len(os.listdir(tmp_path)) == 2
    _files.write_text(tmp_path / "another", "")
    assert len(os.listdir(tmp_path)) == 3  # it may belong to a process that is still writing
    _files.write_text(path, "new")
    assert sorted(os.listdir(tmp_path)) == ["another", "file"]


def test_a_write_in_progress_is_not_disturbed(tmp_path):
    path = tmp_path / "file"

    def slow(file):
        file.write(b"first")
        _files.write_text(path, "second")

    _files.write_whole(path, slow)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.file cannot be written: there is no folder .*nothing"):
        _files.write_text(tmp_path / "nothing" / "file", "")


def test_a_lock_of_a_folder(tmp_path):
    """Held against other threads and processes; the thread that holds it may lock again."""
    outcomes = []

    def other():
        try:
            with _files.locked(tmp_path):
                outcomes.append("locked")
        except ValueError as error:
            outcomes.append(str(error))

    def run_other():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with _files.locked(tmp_path):
        with _files.locked(tmp_path):
            run_other()
        run_other()
    run_other()
    assert ["another training is running there" in outcome for outcome in outcomes[:2]] == [True, True]
    assert outcomes[2:] == ["locked"]
    assert os.listdir(tmp_path) == []
