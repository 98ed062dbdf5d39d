"""`ferdeploy variants`: the whole table is read in an ordinary terminal."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from fer_deploy.cli import cli
from fer_deploy.recipes import list_recipes


def test_nothing_is_cut_in_a_terminal_of_80_columns(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["variants", "--workspace", str(tmp_path)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    table = done.output.partition("\n\n")[0].splitlines()
    assert table[0].split() == ["variant", "GFLOPs", "params", "acts", "stages", "init", "study", "here"]
    assert [line.split()[0] for line in table[1:]] == list(list_recipes())
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line or len(line) > 80 for line in table)


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    record = tmp_path / "training" / "B" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("<<<<<<< HEAD")
    done = CliRunner().invoke(cli, ["variants", "--workspace", str(tmp_path)])
    assert done.exit_code == 1
    assert f"{record}: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_size_that_a_network_does_not_take_is_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\ntitle = "t"\nnetwork = { name = "baseline", input_size = 64 }\n[[stage]]\nepochs = 1\n'
    )
    for words in (["variants", str(recipe)], ["train", str(recipe), "--data", "synthetic:70"]):
        done = CliRunner().invoke(cli, [*words, "--workspace", str(tmp_path)])
        assert done.exit_code == 1, done.output
        assert "input_size 64: the network does not take faces of 64x64 pixels (mat1 and mat2" in done.stderr
        assert not isinstance(done.exception, RuntimeError)
