from __future__ import annotations

from pathlib import Path

import pytest
import run_dir_program as program
from processes import run_ranks

from pggan_fast.training import run_dir


def test_numbers_go_on_from_the_largest(tmp_path):
    out = tmp_path / "new" / "runs"
    assert run_dir.create(out, "a").name == "00000-a"
    assert run_dir.create(out, "a").name == "00001-a"
    (out / "00041-of another kind").mkdir()
    (out / "fakes000999.png").touch()
    made = run_dir.create(out, "faces-gpus2-batch32")
    assert made == out / "00042-faces-gpus2-batch32"
    assert made.is_dir()


@pytest.mark.parametrize("description", ["", "a/b", "..\\b", "a\nb", "a\x1bb"])
def test_a_description_must_be_part_of_a_name(tmp_path, description):
    with pytest.raises(ValueError, match=r"description: expected a part of a file's name"):
        run_dir.create(tmp_path, description)


def test_processes_that_start_at_once_have_numbers_of_their_own(tmp_path):
    run_ranks(program.__file__, program.WORLD, str(tmp_path))
    made = [name for rank in range(program.WORLD) for name in (tmp_path / f"made by {rank}").read_text().split()]
    assert len(made) == program.WORLD * program.RUNS
    assert len({name.partition("-")[0] for name in made}) == len(made)
    assert sorted(made) == sorted(path.name for path in (tmp_path / "runs").iterdir())


@pytest.mark.parametrize("description", ["b", "same"])
def test_a_folder_that_appears_meanwhile_is_left_to_its_run(tmp_path, monkeypatch, description):
    """Another process makes the same number after it was found to be free."""
    free, looks = run_dir._numbers, []

    def numbers(outdir):
        found = free(outdir)
        if not looks:
            (outdir / "00000-same").mkdir()
        looks.append(found)
        return found

    monkeypatch.setattr(run_dir, "_numbers", numbers)
    assert run_dir.create(tmp_path, description).name == f"00001-{description}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000-same", f"00001-{description}"]


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    told = "another process is training in it; --new starts another run"
    with run_dir.held(tmp_path), pytest.raises(ValueError, match=told), run_dir.held(tmp_path):
        pass
    with run_dir.held(tmp_path):
        pass
