"""`ferdeploy variants`: the whole table is read in an ordinary terminal."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from fer_deploy.cli import cli
from fer_deploy.recipes import list_recipes
from fer_deploy.recipes.load import RELEASED
from fer_deploy.study import STUDY_VARIANTS


def table_of(output: str) -> list[str]:
    return output.partition("\n\n")[0].splitlines()


def test_the_list_fits_a_terminal_of_80_by_24_and_nothing_is_cut(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["variants", "--workspace", str(tmp_path)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    table = table_of(done.output)
    assert table[0].split() == ["variant", "GFLOPs", "params", "acts", "stages", "init", "study", "here"]
    assert [line.split()[0] for line in table[1:]] == [*STUDY_VARIANTS, *RELEASED]
    lines = done.output.splitlines()
    assert len(lines) <= 23  # and the shell's prompt
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in table)
    assert max(len(line.rstrip()) for line in lines) <= 80


def test_all_lists_teachers_and_the_workspaces_own_recipes(tmp_path: Path) -> None:
    folder = tmp_path / "training" / "recipes"
    folder.mkdir(parents=True)
    text = 'name = "{}"\ntitle = "t"\nnetwork = {{ name = "baseline" }}\n[[stage]]\nepochs = 1\n'
    (folder / "mine.toml").write_text(text.format("mine"))
    (folder / "B.toml").write_text(text.format("B"))
    words = ["variants", "--workspace", str(tmp_path)]
    done = CliRunner().invoke(cli, [*words, "--all"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in table_of(done.output)[1:]] == [*list_recipes(), "mine"]
    more = len(list_recipes()) + 1 - len(STUDY_VARIANTS) - len(RELEASED)
    assert f"--all: {more} more" in CliRunner().invoke(cli, words).output
    assert 'name = "mine"' in CliRunner().invoke(cli, [*words, "mine"]).output


def test_a_title_is_text_and_no_markup(tmp_path: Path) -> None:
    folder = tmp_path / "training" / "recipes"
    folder.mkdir(parents=True)
    text = 'name = "odd"\ntitle = "[/red] \\u001b[2J"\nnetwork = { name = "baseline" }\n[[stage]]\nepochs = 1\n'
    (folder / "odd.toml").write_text(text)
    done = CliRunner().invoke(cli, ["variants", "--workspace", str(tmp_path), "--all"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "[/red] \\x1b[2J" in done.output


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    record = tmp_path / "training" / "B" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("<<<<<<< HEAD")
    done = CliRunner().invoke(cli, ["variants", "--workspace", str(tmp_path)])
    assert done.exit_code == 1
    assert f"{record}: damaged run record" in done.stderr
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
