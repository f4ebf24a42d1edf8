"""One declaration per value, and what wins over what."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxrag import settings
from mlxrag.errors import BadInput


def test_a_key_belongs_to_one_table_only() -> None:
    """Flags and environment variables are flat, so no two tables share a key."""
    keys = [key for table in settings.TABLES.values() for key in table.model_fields]
    assert len(keys) == len(set(keys))


def test_every_knob_has_a_help_line_that_ends_in_a_period() -> None:
    """The field is the declaration, help included."""
    for name, table in settings.TABLES.items():
        for key, info in table.model_fields.items():
            assert info.description and info.description.endswith("."), f"{name}.{key}"


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precedence, one step at a time."""
    file = tmp_path / "job.toml"
    file.write_text("[sampling]\ntemp = 0.3\n")
    assert settings.read().sampling.temp == 0.0
    assert settings.read(file).sampling.temp == 0.3
    monkeypatch.setenv("MLXRAG_TEMP", "0.6")
    assert settings.read(file).sampling.temp == 0.6
    assert settings.read(file, {"temp": 0.9}).sampling.temp == 0.9
    assert settings.read(file, {"temp": None}).sampling.temp == 0.6


def test_all_faults_of_a_file_are_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    """Unknown tables and keys are refused; a key of another table names that table."""
    file = tmp_path / "job.toml"
    file.write_text("[sampling]\ntmp = 1\n[chunkin]\nx = 1\n[retrieval]\ntemp = 1\n")
    with pytest.raises(BadInput) as caught:
        settings.read(file)
    message = str(caught.value)
    assert "'tmp' in [sampling]; did you mean 'temp' in [sampling]?" in message
    assert "[chunkin]; did you mean 'chunking'?" in message
    assert "'temp' in [retrieval]; did you mean 'temp' in [sampling]?" in message


def test_a_value_beyond_its_limits_names_the_place_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flag, environment and file are told apart."""
    with pytest.raises(BadInput, match=r"--temp: .*greater than or equal to 0"):
        settings.read(None, {"temp": -1.0})
    monkeypatch.setenv("MLXRAG_MAX_TOKENS", "many")
    with pytest.raises(BadInput, match="environment variable MLXRAG_MAX_TOKENS"):
        settings.read()


def test_a_file_that_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    """One sentence each, with the path."""
    bad = tmp_path / "bad.toml"
    bad.write_text("[[[")
    with pytest.raises(BadInput, match=r"bad\.toml: not a TOML file"):
        settings.read(bad)
    with pytest.raises(BadInput, match="no such settings file"):
        settings.read(tmp_path / "none.toml")


def test_given_tells_what_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's own advice may replace a default, but not what the user set."""
    file = tmp_path / "job.toml"
    file.write_text("[retrieval]\nnum_passages = 3\n")
    monkeypatch.delenv("MLXRAG_TRACK")
    monkeypatch.setenv("MLXRAG_SEED", "1")
    assert settings.given(file, {"temp": 0.5, "top_p": None}) == {"num_passages", "seed", "temp"}
