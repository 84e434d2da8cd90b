"""Files that a person wrote, and files of a run that something happened to."""

import os
from pathlib import Path

import pytest

from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder, read_json, read_table
from fedkvasir.report import build_report
from fedkvasir.scenario import load
from tests.conftest import Command
from tests.report.crafted import make_plan, make_run


def test_a_key_that_stands_twice_is_refused_with_its_line(tiny: Path) -> None:
    text = tiny.read_text()
    tiny.write_text(text.replace("lr: 0.05,", "lr: 0.05, batch_size: 8,"))
    with pytest.raises(UserError, match=r"the key batch_size stands twice in .*, line \d+"):
        load(tiny)
    anchors = "resources: &r {device: cpu}\nevaluation: &e {<<: &o {every: 2}, every: 1}\n"
    tiny.write_text(text.replace("evaluation: {every: 1, select: train-val}\n", anchors))
    assert load(tiny).resources.device == "cpu" and load(tiny).evaluation.every == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_a_folder_is_for_whom_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "store") as folder:
            (folder / "pixels").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "store").stat().st_mode & 0o777 == mode


def test_what_is_gone_or_cut_short_is_one_sentence(tmp_path: Path) -> None:
    for reader in (read_json, read_table):
        with pytest.raises(
            UserError, match=r"facts is gone; copy it again, or run again with --fresh \(a sweep: without"
        ):
            reader(tmp_path / "facts")
    (tmp_path / "facts").write_bytes(b'{"a": 1')
    for reader in (read_json, read_table):
        with pytest.raises(UserError, match=r"facts is cut short or broken; copy it again"):
            reader(tmp_path / "facts")


NAMES = (
    "plan.json", "plan.parquet", "scenario.yaml", "environment.json", "result.json", "samples.parquet",
    "rounds.parquet",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_run_keeps_its_page_and_is_told_in_one_sentence(
    tmp_path: Path, command: Command, name: str, gone: bool
) -> None:
    run = make_run(tmp_path / "run", make_plan("segmentation"))
    page = build_report(run).read_bytes()
    path = run.folder / name
    whole = path.read_bytes()
    path.unlink()
    if not gone:
        path.write_bytes(whole[: len(whole) // 2])
    done = command("report", run.folder)
    if name == "result.json" and gone:  # then it is a run that is not finished
        assert done.returncode == 0
        return
    assert done.returncode == 2 and str(path if name != "plan.json" or not gone else run.folder) in done.stderr
    assert "bug" not in done.stderr and (run.folder / "report.html").read_bytes() == page


def test_a_broken_checkpoint_of_a_finished_run_is_not_passed_over_for_another(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_plan("segmentation"))
    best = run.folder / "checkpoints" / f"{run.result['best_round']:04d}.safetensors"
    best.write_bytes(best.read_bytes()[:40])
    with pytest.raises(UserError, match=rf"{best.name} is cut short or broken"):
        run.checkpoint("best")
    with pytest.raises(UserError, match="holds no checkpoint of round 1"):
        run.checkpoint("1")
