"""TensorBoard: event files in the run folder's ``tensorboard/``; read them with ``tensorboard --logdir runs``."""

import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fedkvasir.plan import Plan
from fedkvasir.runs import Run
from fedkvasir.trackers import Values


class TensorBoard:
    """Written anew from the records whenever the run goes on, so that no round stands there twice.

    It has no artifacts: the report stays where it is.
    """

    def begin(self, run: Run, plan: Plan) -> int:
        folder = run.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(folder)
        self.writer.add_text("scenario", f"```yaml\n{plan.scenario.dump()}\n```")
        return 0

    def round(self, number: int, values: Values) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, number)
        self.writer.flush()

    def end(self, values: Values, report: Path | None) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, 0)
        self.writer.close()

    def stop(self) -> None:
        self.writer.close()
