"""DivergentNets against its members on real data: does the ensemble lose nothing to its best member?

``python benchmarks/divergentnets.py [--data DIR] [--out DIR] [--seeds 0] [--rounds 12]`` trains the five members of
DivergentNets on ``scenarios/kvasir-cvc.yaml`` (128 x 128), all with the same rounds and epochs, forms the ensemble by
every fusion from the same members, and writes ``benchmarks/results/divergentnets.csv``: mean Dice on
Kvasir-SEG's val.txt (baerum) and in Barcelona, wall times, parameters, and for the ensembles what `fedkvasir predict`
costs with all members in memory and with one at a time. A stopped benchmark goes on. Exits with 1 if the mean of the
members falls more than 0.005 below the best member.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from fedkvasir.console import Screen
from fedkvasir.environment import environment
from fedkvasir.plan import make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from fedkvasir.simulation import run_scenario

HERE = Path(__file__).resolve().parent
SCENARIO = HERE.parent / "scenarios" / "kvasir-cvc.yaml"
FUSIONS = ("mean", "weighted", "learned")
CENTERS = ("baerum", "barcelona")
TOLERANCE = 0.005
PICTURES = 64


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    options.add_argument("--out", type=Path, default=Path("runs/divergentnets"))
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--rounds", type=int, default=12, help="rounds a member; six leave all five still rising")
    arguments = options.parse_args()
    rows = [row for seed in arguments.seeds for row in compare(seed, arguments.rounds, arguments.data, arguments.out)]
    table = pd.DataFrame(rows)
    machine = environment("ray", 2)["machine"]
    table["machine"] = f"{machine['processor']}, 2 workers, no GPU"
    table.to_csv(HERE / "results" / "divergentnets.csv", index=False)
    print(table.to_string(index=False))
    members, mean = table[~table["model"].isin(FUSIONS)], table[table["model"] == "mean"]
    worse = False
    for center in CENTERS:
        best, ours = members.groupby("seed")[center].max().mean(), mean[center].mean()
        print(f"{center}: DivergentNets {ours:.4f}, its best member {best:.4f}, difference {ours - best:+.4f}")
        worse |= ours < best - TOLERANCE
    sys.exit(int(worse))


def compare(seed: int, rounds: int, data: Path, out: Path) -> list[dict[str, object]]:
    """One row a member and a fusion of one seed."""
    rows, first = [], None
    for fusion in FUSIONS:
        model = {**yaml.safe_load(SCENARIO.read_text())["model"], "name": "divergentnets", "fusion": fusion}
        flow = yaml.safe_dump(model, default_flow_style=True, width=1000)
        overrides = (f"model={flow}", f"seed={seed}", f"federation.rounds={rounds}")
        folder = out / make_plan(load(SCENARIO, overrides), data).name
        if first and not (folder / "members").is_dir():  # members do not depend on the fusion: they are trained once
            shutil.copytree(first.folder / "members", folder / "members")
        run = run_scenario(SCENARIO, overrides, data, out, workers=2, screen=Screen())
        if first is None:
            first, rows = run, [scores(seed, name, member) for name, member in run.members.items()]
        rows.append(scores(seed, fusion, run) | cost(run, data))
    return rows


def scores(seed: int, name: str, run: Run) -> dict[str, object]:
    table = run.table().set_index("center")
    return {
        "seed": seed,
        "model": name,
        "rounds": run.plan.scenario.federation.rounds,
        **{center: round(float(table.loc[center, "dice"]), 4) for center in CENTERS},
        "barcelona_by_image": round(float(table.loc["barcelona", "dice_images"]), 4),
        "best_round": run.result["best_round"],
        "wall_s": run.result["wall_s"],
        "parameters_m": round(sum(parameter.numel() for parameter in run.model().parameters()) / 1e6, 2),
        "best_sha256": run.result["best_sha256"][:12],
    }


def cost(run: Run, data: Path) -> dict[str, object]:
    """Pictures a second and peak memory of predicting 64 pictures, in a process of its own."""
    pictures = sorted((data / "CVC-ClinicDB" / "Original").glob("*.png"))[:PICTURES]
    measured: dict[str, object] = {}
    for how, option in (("all", []), ("one", ["--one-at-a-time"])):
        out = run.folder / "predicted"
        code = "from fedkvasir.cli import main; main()"
        command = [sys.executable, "-c", code, "predict", str(run.folder), *map(str, pictures), "--out", str(out)]
        # Through a shell: a process begins with the peak memory of the one that started it.
        line = shlex.join([*command, *option]) + "; exit $?"
        said = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True).stdout
        rate, peak = re.search(r"([\d.]+) frames a second, peak memory (\d+) MiB", said).groups()  # type: ignore[union-attr]
        measured |= {f"pictures_per_s_{how}": float(rate), f"peak_mib_{how}": int(peak)}
        shutil.rmtree(out)
    return measured


if __name__ == "__main__":
    main()
