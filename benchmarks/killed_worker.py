"""What a killed worker leaves of a run: Flower's own simulation beside fedkvasir's, four hospitals on two workers.

    python benchmarks/killed_worker.py      # rendered data, about two minutes

A worker is killed (kill -9) at a message of the second of five rounds; counted is how many replies each round averages.
In both it is the hospital that kills the process that works for it, once: here by a declared `crash` whose draw strikes
the first delivery of the message and not the second.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import flwr
import numpy as np
import pandas as pd
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from clients.faults import striking
from fedkvasir.console import Screen
from fedkvasir.environment import environment
from fedkvasir.files import write_atomic
from fedkvasir.scenario import load
from fedkvasir.simulation import run_scenario

HERE = Path(__file__).resolve().parent
SCENARIO = HERE.parent / "scenarios" / "quickstart-faults.yaml"
HOSPITALS, WORKERS, ROUNDS, STRUCK = 4, 2, 5, 2


def flowers_own(kept: Path) -> None:
    """Flower's simulation of clients that return what they are sent; ``kept`` gets a line a round."""
    killed = kept.with_suffix(".killed")
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        if message.content["config"]["server-round"] == STRUCK and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

    class Counting(FedAvg):
        """Flower's FedAvg, which notes how many replies it averages."""

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple:
            replies = list(replies)
            with kept.open("a") as lines:
                lines.write(f"{server_round},{sum(not reply.has_error() for reply in replies)}\n")
            return super().aggregate_train(server_round, replies)

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Counting(fraction_evaluate=0.0, min_available_nodes=HOSPITALS)
        strategy.start(grid, ArrayRecord([np.zeros(3, np.float32)]), num_rounds=ROUNDS)

    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": WORKERS}}
    run_simulation(server, client, num_supernodes=HOSPITALS, backend_config=resources)


def ours() -> list[int]:
    """fedkvasir's simulation: the replies that each round averages."""

    def overrides(seed: int) -> tuple[str, ...]:
        fault = f"faults=[{{kind: crash, center: bergen, probability: 0.5, rounds: [{STRUCK}]}}]"
        return (fault, f"seed={seed}", f"federation.rounds={ROUNDS}", "federation.quorum=1.0", "resources.device=cpu")

    def struck(seed: int, delivery: int) -> bool:
        return bool(striking(load(SCENARIO, overrides(seed)), "bergen", STRUCK, 1, delivery))

    seed = next(seed for seed in range(1000) if struck(seed, 1) and not struck(seed, 2))
    with tempfile.TemporaryDirectory() as out:
        run = run_scenario(SCENARIO, overrides(seed), None, out, workers=WORKERS, screen=Screen(quiet=True))
        trained = run.rounds[run.rounds["phase"] == "train"]
    return trained.groupby("round")["center"].nunique().tolist()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "rounds.csv"
        ended = subprocess.run([sys.executable, __file__, str(kept)], capture_output=True).returncode
        averaged = {"flower": [int(line.split(",")[1]) for line in kept.read_text().splitlines()]}
    averaged["fedkvasir"] = ours()
    facts = {"machine": environment("ray", WORKERS)["machine"]["processor"], "flwr": flwr.__version__}
    facts |= {"hospitals": HOSPITALS, "workers": WORKERS, "killed_in_round": STRUCK}
    table = pd.DataFrame(
        facts | {"simulation": name, "round": number, "replies_averaged": count}
        for name, counts in averaged.items()
        for number, count in enumerate(counts, start=1)
    )
    write_atomic(HERE / "results" / "killed_worker.csv", table.to_csv(index=False))
    print(table.pivot(index="simulation", columns="round", values="replies_averaged").to_string())
    print(f"exit code of Flower's simulation: {ended}")


if __name__ == "__main__":
    flowers_own(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
