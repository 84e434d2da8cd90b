"""The Flower ServerApp: the same round loop under stock `flwr run`."""

from logging import INFO

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from fedkvasir.runs import Event, run_of_config
from server.rounds import federate, roll_call

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario named in the run configuration; needs as many SuperNodes as the scenario has centers."""
    run, plan = run_of_config(*(str(context.run_config[key]) for key in ("scenario", "data", "out")))

    def watch(event: Event) -> None:
        if event.kind != "phase":
            log(INFO, "%s %d %s", event.kind, event.round, event.facts)

    with run.writing():
        run.start(plan, "flwr", len(plan.centers))
        if not run.finished:
            federate(grid, roll_call(grid, plan), plan, run, watch)
        best, last = run.result["best_sha256"], run.result["weights_sha256"]
        log(INFO, "run folder %s, weights sha256 %s (best), %s (last)", run.folder, best, last)
