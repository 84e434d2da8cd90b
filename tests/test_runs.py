"""The run folder."""

from pathlib import Path

import numpy as np
import pandas as pd

from fedkvasir.runs import Checkpoint, Run
from fedkvasir.view import Glance


def test_rounds_are_in_order_past_the_four_digits_of_their_names(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for number in (9000, 10499, 10500):
        state = {"w": np.zeros(1, np.float32)}
        run.commit(Checkpoint(number, state, {}, best=9000), pd.DataFrame({"round": [number]}), pd.DataFrame())
    for reader in (run, Glance(tmp_path)):
        last = reader.latest()
        assert last is not None and last.round == 10500
    run.drop_uncommitted(10500)
    assert list(run.rounds["round"]) == [9000, 10499, 10500]
    run.drop_uncommitted(10499)
    assert list(run.rounds["round"]) == [9000, 10499]
