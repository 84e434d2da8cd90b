"""The run folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.errors import UserError
from fedkvasir.runs import Checkpoint, Run
from tests.report.crafted import make_plan


def test_rounds_are_in_order_past_the_four_digits_of_their_names(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for number in (9000, 10499, 10500):
        state = {"w": np.zeros(1, np.float32)}
        run.commit(Checkpoint(number, state, {}, best=9000), pd.DataFrame({"round": [number]}), pd.DataFrame())
    for last in (run.latest(), run.committed()):
        assert last is not None and last.round == 10500
    run.drop_uncommitted(10500)
    assert list(run.rounds["round"]) == [9000, 10499, 10500]
    run.drop_uncommitted(10499)
    assert list(run.rounds["round"]) == [9000, 10499]


def test_where_a_new_best_round_turns_out_broken_the_best_of_before_is_there(tmp_path: Path) -> None:
    run, state = Run(tmp_path), {"w": np.zeros(1, np.float32)}
    for number, best in enumerate((1, 1, 1, 4), 1):
        run.commit(Checkpoint(number, state, {}, best=best), pd.DataFrame(), pd.DataFrame())
    (tmp_path / "checkpoints" / "0004.safetensors").write_bytes(b"cut short")
    last = run.latest()
    assert last is not None and last.round == 3 and run.checkpoint("best").round == 1


def test_another_run_of_the_same_name_is_not_taken_for_this_one(tmp_path: Path) -> None:
    run, plan = Run(tmp_path), make_plan("segmentation")
    run.start(plan, "local", 1)
    other = replace(plan, scenario=plan.scenario.model_copy(update={"seed": plan.scenario.seed + 1}))
    with pytest.raises(UserError, match="holds another run, whose name happens to be the same; use another --out"):
        run.start(other, "local", 1)
    assert Run(tmp_path).plan.hash == plan.hash
    run.clear()  # as --fresh does
    run.start(other, "local", 1)
    assert Run(tmp_path).plan.hash == other.hash


def test_a_run_is_thrown_away_whole_or_known_by_what_it_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off after every one of its steps: nothing of it is left when it is begun again, on whatever images."""
    plan = make_plan("segmentation")
    changed = replace(plan, pixels={center: "other" for center in plan.pixels})
    steps, rename = 0, Path.rename

    def cut_off(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return rename(path, target)

    while True:
        run = Run(tmp_path / str(steps))
        run.start(plan, "local", 1)
        state = {"w": np.zeros(1, np.float32)}
        run.commit(Checkpoint(1, state, {}), pd.DataFrame({"round": [1]}), pd.DataFrame())
        left = steps
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", cut_off)
            try:
                run.clear()
                break
            except KeyboardInterrupt:
                steps += 1
        run.start(changed, "local", 1)
        assert run.latest() is None and not run.finished and not len(run.rounds)
    assert steps > 3 and [path.name for path in run.folder.iterdir()] == []
    run.start(changed, "local", 1)
    assert run.latest() is None


def test_a_run_that_goes_on_keeps_what_was_noted_and_notes_where_it_goes_on(tmp_path: Path) -> None:
    run, plan = Run(tmp_path), make_plan("segmentation")
    run.start(plan, "local", 1)
    run.note("the batch was halved")
    run.start(plan, "ray", 2)
    path = run.folder / "environment.json"
    facts = json.loads(path.read_text())
    assert facts["notes"] == ["the batch was halved"] and facts["engine"] == "ray"
    path.write_text(json.dumps(facts | {"machine": facts["machine"] | {"instructions": "PDP11", "gpus": ["Voodoo"]}}))
    run.start(plan, "ray", 2)
    facts = json.loads(path.read_text())
    here, gpus = facts["machine"]["instructions"], ", ".join(facts["machine"]["gpus"]) or "none"
    assert facts["notes"] == [
        "the batch was halved",
        f"it went on elsewhere than it was begun: instructions PDP11, now {here}; gpus Voodoo, now {gpus}",
    ]
