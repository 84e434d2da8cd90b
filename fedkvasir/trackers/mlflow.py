"""MLflow: ``mlflow.db`` beside the run folders, artifacts in ``mlruns/``, or wherever MLFLOW_TRACKING_URI says.

A database, for MLflow no longer develops its store of plain files. Read it with
``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db``.
"""

import logging
import os
import time
from pathlib import Path

# Before the import: what is on the local disk is not to be reported elsewhere, usage statistics included.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fedkvasir.files import lock, write_atomic
from fedkvasir.plan import Plan
from fedkvasir.runs import Run
from fedkvasir.scenario import flat
from fedkvasir.trackers import Values, key_of

logging.getLogger("mlflow").setLevel(logging.ERROR)
ID = "tracker-mlflow.txt"
"""In the run folder: MLflow's id of the run."""
PARAMS = 100
"""As many parameters does MLflow take at once."""


class MLflow:
    """One MLflow run a run, whose id the run folder keeps; the report is an artifact only if its images are rendered,
    for a report of real data contains patient images."""

    def begin(self, run: Run, plan: Plan) -> int:
        out = run.folder.resolve().parent
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        with lock(out / "mlflow.lock"):  # two processes would create database and experiment twice
            self.client = MlflowClient(tracking_uri=uri or f"sqlite:///{out / 'mlflow.db'}")
            found = self._find(run)
            self.id = found or self._create(run, plan, None if uri else (out / "mlruns").as_uri())
        self.client.update_run(self.id, status="RUNNING")
        keys = [key_of(member, "wall_s") for member in (*plan.members, "")]
        return sum(len(self.client.get_metric_history(self.id, key)) for key in keys)

    def round(self, number: int, values: Values) -> None:
        now_ms = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(name, value, now_ms, number) for name, value in values.items()])

    def end(self, values: Values, report: Path | None) -> None:
        known = self.client.get_run(self.id).data.metrics
        self.round(0, {name: value for name, value in values.items() if name not in known})
        if report:
            self.client.log_artifact(self.id, str(report))
        self.client.set_terminated(self.id)

    def stop(self) -> None:
        self.client.set_terminated(self.id, "KILLED")

    def _find(self, run: Run) -> str | None:
        """The id of the run's page, if it has one and MLflow still knows it."""
        note = run.folder / ID
        try:
            page = self.client.get_run(note.read_text())
        except (FileNotFoundError, MlflowException):
            return None
        return page.info.run_id if page.info.lifecycle_stage == "active" else None

    def _create(self, run: Run, plan: Plan, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedkvasir")
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name, artifacts)
        page = self.client.create_run(number, run_name=run.folder.name).info.run_id
        params = [Param(*pair) for pair in flat(plan.scenario.model_dump(mode="json")).items()]
        for start in range(0, len(params), PARAMS):
            self.client.log_batch(page, params=params[start : start + PARAMS])
        write_atomic(run.folder / ID, page)
        return page
