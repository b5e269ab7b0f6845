"""The options of the command line: their borders, their help, and what an error says."""

import pytest

import pyro_kanerva
from pyro_kanerva import OnlineWriter
from pyro_kanerva.cli import commands, main
from pyro_kanerva.model.defaults import writer_for
from pyro_kanerva.weights import ADDRESS_PRIORS, MIXING_PRIORS


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("train", "--held-out", "0 -1 nan 1.5"),
        *(("train", f"--{name}", "0 -1 nan 1000001") for name in ("slots", "width", "code-size")),
        *(("train", f"--{name}", "0 -1 nan 1000001") for name in ("episode-length", "batch-size")),
        *(("train", f"--{name}", "0 -1 nan inf") for name in ("code-scale", "memory-scale", "learning-rate")),
        *(("train", f"--{name}", "-1 nan inf x") for name in ("memory-kl-weight", "autoencoder-weight")),
        *(("train", f"--{name}", "0 -1 nan") for name in ("steps", "checkpoint-every")),
        *((command, "--recall-episodes", "1 -1 nan") for command in ("train", "evaluate")),
        *((command, "--seed", "-1 nan 4294967296") for command in ("train", "query", "generate")),
        ("train", "--writer", "nothing"),
        *(("query", "--noise", "0 1 -1 nan"), ("query", "--steps", "0 nan"), ("query", "--episode", "-1 nan")),
        *(("generate", "--samples", "0 nan 10001"), ("generate", "--steps", "-1 nan"), ("generate", "--episode", "-1")),
        *((command, "--out", "nowhere/file .") for command in ("query", "generate", "export")),
        *((command, "--run", "file") for command in ("train", "query", "generate", "evaluate", "export")),
    ],
)
def test_values_beyond_the_border_name_their_option(tmp_path, monkeypatch, capsys, command, option, values):
    """Also ``.``, a folder, for a file, and a file for a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    required = ["--out", "new"] if command == "export" and option != "--out" else []
    for value in values.split():
        with pytest.raises(SystemExit, match="2"):
            main([command, f"{option}={value}", *required])
        assert f"error: argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize("address_prior", ADDRESS_PRIORS)
def test_a_writer_is_offered_where_the_default_mixes_slots(address_prior):
    chosen = writer_for(ADDRESS_PRIORS[address_prior](4))
    assert isinstance(chosen, OnlineWriter) == (address_prior in MIXING_PRIORS)


@pytest.mark.parametrize(
    ("message", "caught"), [("DefaultCPUAllocator: can't allocate memory: 4 TB", True), ("a mistake of ours", False)]
)
def test_too_little_memory(tmp_path, monkeypatch, capsys, message, caught):
    """Other errors of torch keep their traceback."""

    def build(*arguments):
        raise RuntimeError(message)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "build_machine", build)
    if caught:
        assert main(["train"]) == 1
        assert f"error: not enough memory ({message}). Lower --slots, " in capsys.readouterr().err
    else:
        with pytest.raises(RuntimeError, match=message):
            main(["train"])


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"pyro-kanerva {pyro_kanerva.__version__}\n"


def test_help(capsys):
    for command in ([], ["train"], ["evaluate"], ["query"], ["generate"]):
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--help"])
        help_text = capsys.readouterr().out
        assert "--run" in help_text
        assert "(default: None)" not in help_text
        assert "(default: False)" not in help_text
