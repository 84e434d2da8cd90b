"""Weights & Biases, offline: ``wandb/`` beside the run folders, nothing leaves this machine before ``wandb sync``.

With WANDB_MODE=online it is sent at once; WANDB_PROJECT and WANDB_ENTITY say where to.
"""

import os
import secrets
import shutil
from pathlib import Path

# Before the import, or it looks for its server even so.
os.environ.setdefault("WANDB_MODE", "offline")

from wandb import Html, Settings, init

from fedkvasir.files import write_atomic
from fedkvasir.plan import Plan
from fedkvasir.runs import Run
from fedkvasir.trackers import Values

ID = "tracker-wandb.txt"
"""In the run folder: the id of the run's page."""


class WeightsAndBiases:
    """One page a run, whose id the run folder keeps. Offline it is written anew from the records whenever the run goes
    on, so that one `wandb sync` sends every round once; online the page says how far it is.

    The report goes along only if its images are rendered, for a report of real data contains patient images.
    """

    def begin(self, run: Run, plan: Plan) -> int:
        note, out = run.folder / ID, run.folder.resolve().parent
        if not note.is_file():
            write_atomic(note, secrets.token_hex(4))
        page = note.read_text()
        offline = os.environ["WANDB_MODE"] == "offline"
        if offline:
            for before in (out / "wandb").glob(f"offline-run-*-{page}"):
                shutil.rmtree(before)
        self.page = init(
            project=os.environ.get("WANDB_PROJECT", "fedkvasir"),
            name=run.folder.name,
            id=page,
            resume=None if offline else "allow",
            reinit="create_new",
            dir=out,
            config=plan.scenario.model_dump(mode="json"),
            settings=Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True),
        )
        # An ensemble's members begin at round 1 each; W&B's own steps only grow.
        self.page.define_metric("round")
        self.page.define_metric("*", step_metric="round")
        return self.page.starting_step

    def round(self, number: int, values: Values) -> None:
        self.page.log({"round": number, **values})

    def end(self, values: Values, report: Path | None) -> None:
        self.page.summary.update(values)
        if report:
            self.page.summary["report"] = Html(report.read_text(encoding="utf-8"), inject=False)
        self.page.finish()

    def stop(self) -> None:
        self.page.finish(exit_code=1)
