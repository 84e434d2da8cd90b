"""What a round over real sites costs beside stock Flower, on this machine over loopback, TLS and authentication on.

    python benchmarks/site_latency.py                # about 10 minutes

stock      Flower's own FedAvg and its SuperLink and SuperNodes as they come (a process a message, train and evaluate as
           two messages), clients that send back what they got; with one array of 28 KB, and with the arrays of the
           network that the other arm trains.
fedkvasir  `fedkvasir run --on` with two hospitals that train and validate a very small network on a few pictures.

The arms take turns. A round lasts from the end of the round before to its own; the median of rounds 2..N counts.
benchmarks/results/site_latency.csv also says what of a round the hospitals worked (train and validation, the slower of
the two) and what was waiting and carrying.
"""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import yaml
from flwr.proto.control_pb2 import ListNodesRequest

from fedkvasir import wire
from fedkvasir.files import write_atomic
from fedkvasir.runs import Run
from fedkvasir.sites.federation import ServerKit

RESULT = Path(__file__).parent / "results" / "site_latency.csv"
BIN = Path(sys.executable).parent
ROUNDS, TURNS = 6, 2
HOSPITALS = ("alta", "bergen")
SCENARIO = """
task: segmentation
data:
  image_size: 32
  centers:
    alta: {dataset: synthetic, center: alta, val: 0.2, test: 0.2}
    bergen: {dataset: synthetic, center: bergen, val: 0.2, test: 0.2}
  options:
    synthetic: {patients_per_center: 10, image_scale: 0.2}
model: {name: unet, encoder: tu-lcnet_050, weights: null, decoder_channels: [16, 8, 8, 4, 4]}
training: {loss: dice+bce, optimizer: sgd, lr: 0.05, batch_size: 4, epochs: 1, augment: light}
federation: {rounds: 6, deadline_s: 120}
"""
STOCK_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "stock"
version = "1.0.0"
description = "Flower as it comes"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "stock.app:server"
clientapp = "stock.app:client"
[tool.flwr.app.config]
rounds = 6
arrays = ""
times = ""
"""
STOCK_APP = """
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

@server.main()
def main(grid, context):
    times, shapes = [], json.loads(context.run_config["arrays"])
    arrays = ArrayRecord({str(n): Array(np.zeros(shape, np.float32)) for n, shape in enumerate(shapes)})
    note = lambda number, _: times.append(time.time())
    FedAvg().start(grid, arrays, num_rounds=context.run_config["rounds"], evaluate_fn=note)
    open(context.run_config["times"], "w").write(json.dumps(times))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_kits(folder: Path) -> ServerKit:
    facts = {"name": "lab", "address": f"127.0.0.1:{free_port()}", "listen": "127.0.0.1", "hospitals": [*HOSPITALS]}
    (folder / "federation.yaml").write_text(yaml.safe_dump(facts))
    command = [str(BIN / "fedkvasir"), "site", "kit", str(folder / "federation.yaml"), "--out", str(folder / "kits")]
    subprocess.run(command, check=True, capture_output=True)
    for hospital in HOSPITALS:
        path = folder / "kits" / hospital / "site.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"runtime_port": free_port()}))
    return ServerKit.load(folder / "kits" / "server")


@contextmanager
def processes(folder: Path, commands: list[list[str]]) -> Iterator[None]:
    home = {"FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    home["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # where Flower looks for its own programs
    with (folder / "log").open("a") as log:
        begun = [
            subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | home, start_new_session=True)
            for command in commands
        ]
        try:
            yield
        finally:
            for process in begun:
                os.killpg(process.pid, signal.SIGTERM)
            for process in begun:
                process.wait(60)


def wait_for_hospitals(kit: ServerKit, status: str) -> None:
    """Until all are ``registered`` or ``online``."""
    for _ in range(200):
        with suppress(httpx.HTTPError):  # the server is not there yet
            wire.enlist(kit)
            nodes = wire.control(kit).ListNodes(ListNodesRequest()).nodes_info
            if sum(node.status == status for node in nodes) == len(HOSPITALS):
                return
        time.sleep(0.5)
    raise SystemExit(f"not all hospitals are {status}")


def stock(folder: Path, shapes: list[list[int]]) -> tuple[float, float]:
    """Seconds a round; of them the hospitals worked none."""
    kit, app = make_kits(folder), folder / "stock"
    (app / "stock").mkdir(parents=True)
    (app / "pyproject.toml").write_text(STOCK_PROJECT)
    (app / "stock" / "__init__.py").write_text("")
    (app / "stock" / "app.py").write_text(STOCK_APP)
    link = [str(BIN / "flower-superlink"), "--ssl-ca-certfile", str(kit.ca_certificate)]
    link += ["--ssl-certfile", str(kit.certificate), "--ssl-keyfile", str(kit.certificate_key)]
    link += ["--enable-supernode-auth", "--host", "127.0.0.1", "--port", str(kit.port)]
    link += ["--database", str(folder / "state.db"), "--disable-runtime-dependency-installation"]
    node = [str(BIN / "flower-supernode"), "--root-certificates", str(kit.ca_certificate), "--superlink", kit.address]
    keys = [str(folder / "kits" / hospital / "key") for hospital in HOSPITALS]
    nodes = [[*node, "--auth-supernode-private-key", key, "--port", str(free_port())] for key in keys]
    config = f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "{kit.address}"\n'
    write_atomic(folder / "flwr" / "config.toml", f'{config}root-certificates = "{kit.ca_certificate}"\n')
    times = folder / "times.json"
    with processes(folder, [link]), ExitStack() as stack:
        wait_for_hospitals(kit, "registered")  # a stock SuperNode that comes too early goes away for good
        stack.enter_context(processes(folder, nodes))
        wait_for_hospitals(kit, "online")
        told = f"rounds={ROUNDS} arrays='{json.dumps(shapes)}' times='{times}'"
        environment = os.environ | {"FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
        subprocess.run([str(BIN / "flwr"), "run", str(app), "lab", "-c", told], check=True, env=environment)
        end = time.monotonic() + 60 * ROUNDS
        while not times.is_file():
            if time.monotonic() > end:
                raise SystemExit(f"the stock run did not end:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(1)
    return float(np.median(np.diff(json.loads(times.read_text()))[1:])), 0.0


def ours(folder: Path) -> tuple[float, float]:
    """Seconds a round, and those of them that the slower hospital worked."""
    kit = make_kits(folder)
    (folder / "tiny.yaml").write_text(SCENARIO)
    command = [str(BIN / "fedkvasir"), "site", "start"]
    starts = [[*command, str(folder / "kits" / name)] for name in ("server", *HOSPITALS)]
    with processes(folder, starts):
        wait_for_hospitals(kit, "online")
        run = [str(BIN / "fedkvasir"), "run", str(folder / "tiny.yaml"), f"federation.rounds={ROUNDS}"]
        subprocess.run([*run, "--on", str(kit.root), "--out", str(folder / "runs"), "--quiet"], check=True)
    (place,) = (folder / "runs").iterdir()
    rounds = Run(place).rounds
    took = rounds.query("metric == 'wall_s'").set_index("round")["value"].loc[2:]
    work = rounds[rounds["phase"].isin(["train", "val"])].drop_duplicates(["round", "phase", "center"])
    worked = work.groupby(["round", "center"])["seconds"].sum().groupby("round").max().loc[2:]
    return float(took.median()), float(worked.median())


def main() -> None:
    from fedkvasir.models import build_model
    from fedkvasir.scenario import load

    rows = []
    for turn in range(1, TURNS + 1):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "tiny.yaml").write_text(SCENARIO)
            network = build_model(load(folder / "tiny.yaml").model, "segmentation", 1)
            arms = {
                "stock, one array of 28 KB": [[7168]],
                "stock, the network's arrays": [[*tensor.shape] for tensor in network.state_dict().values()],
                "fedkvasir": [],
            }
            for number, (arm, shapes) in enumerate(arms.items()):
                own = folder / str(number)
                own.mkdir()
                seconds, worked = stock(own, shapes) if shapes else ours(own)
                rows.append({"turn": turn, "arm": arm, "s_per_round": seconds, "s_hospitals_work": worked})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table["s_waiting_and_carrying"] = table["s_per_round"] - table["s_hospitals_work"]
    table["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    write_atomic(RESULT, table.round(2).to_csv(index=False))
    print(table.groupby("arm")["s_per_round"].median())


if __name__ == "__main__":
    main()
