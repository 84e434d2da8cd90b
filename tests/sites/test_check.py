"""`fedkvasir site check`: what would not work at a hospital, each in a sentence that says what to do."""

import shutil
import socket
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from fedkvasir.doctor import Finding
from fedkvasir.names import spelled_out
from fedkvasir.scenario import load, parse
from fedkvasir.sites import check
from fedkvasir.sites.check import examine
from fedkvasir.sites.federation import SiteKit
from fedkvasir.sites.knock import Knock
from tests.conftest import Command, Miniatures
from tests.sites.conftest import site
from tests.sites.impostors import certified_by_itself

Mend = Callable[[SiteKit], list[Finding]]


@pytest.fixture
def to_mend(monkeypatch: pytest.MonkeyPatch) -> Mend:
    """What is to be mended, for a server that can be reached."""
    monkeypatch.setattr(check, "knock", lambda kit: Knock("", 0.0))
    return lambda kit: [finding for finding in examine(kit) if finding.state == "fail"]


def test_what_is_to_be_mended_in_the_kit(kits: Path, to_mend: Mend, miniatures: Miniatures) -> None:
    data = str(miniatures("cvc-clinicdb", 4))
    kit = site(kits, data=data)
    assert not to_mend(kit)
    kit.key.chmod(0o640)
    (seen,) = to_mend(kit)
    assert seen.mend == f"chmod 600 {kit.key}"
    kit.key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as other:
        (taken,) = to_mend(site(kits, runtime_port=other.getsockname()[1]))
        assert "is taken" in taken.what
    (ended,) = to_mend(site(kits, expires=date(2020, 1, 1)))
    assert "has ended on 2020-01-01" in ended.what and "ask the coordinator to renew it" in ended.mend
    soon = site(kits, expires=datetime.now(UTC).date() + timedelta(days=3))
    assert not to_mend(soon) and any(f.state == "note" and "3 days" in f.what for f in examine(soon))
    certified_by_itself(kit.ca_certificate, days=-1)
    assert "ca.crt has expired" in to_mend(soon)[0].what
    kit.ca_certificate.write_text("nothing")
    assert "is not a certificate" in to_mend(soon)[0].what
    kit.key.write_text("nothing")
    assert "is not a hospital's key" in to_mend(soon)[0].what
    kit.key.unlink()
    assert "No such file" in to_mend(soon)[0].what


def test_a_clock_that_is_off(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ahead_s, state in ((3.0, "ok"), (-9.0, "ok"), (-11.0, "fail"), (200.0, "fail")):
        monkeypatch.setattr(check, "knock", lambda kit, ahead_s=ahead_s: Knock("", ahead_s))
        (clock,) = [finding for finding in examine(site(kits)) if "the clock of" in finding.what]
        assert clock.state == state, clock


def test_what_is_to_be_mended_in_the_data(kits: Path, to_mend: Mend, miniatures: Miniatures) -> None:
    kit = site(kits)
    assert "no dataset in" in to_mend(kit)[0].what
    assert "does not exist" in to_mend(site(kits, data="nowhere"))[0].what
    found = [finding.what for finding in examine(site(kits, data=str(miniatures("cvc-clinicdb", 4))))]
    assert any("cvc-clinicdb: 4 of 612 images in" in text for text in found), found
    assert any("counts differ from the published ones" in text for text in found), found


def test_a_scenario_that_the_hospital_will_refuse_as_it_scores_single_patients(
    kits: Path, miniatures: Miniatures
) -> None:
    raw = {"name": "few", "model": {"name": "unet"}, "data": {"image_size": 32}}
    raw["data"]["centers"] = {"oslo": {"dataset": "kvasir-seg", "val": 0.25, "test": 0.01}}
    shutil.copytree(miniatures("kvasir-seg"), kits / "oslo" / "data" / "Kvasir-SEG")
    words = "few: of its test images at oslo the scenario would have figures of fewer than 5 groups"
    for settings, told in (({"approve": None}, True), ({"share": "per-image"}, False), ({"approve": []}, False)):
        kit = site(kits, **{"share": "per-center", "approve": None} | settings)
        found = [finding for finding in examine(kit, parse(raw, "test")) if words in finding.what]
        assert [finding.state for finding in found] == ["fail"] * told


@pytest.mark.parametrize("override", ["federation.train=pooled", "protocol={kind: holdout, baselines: [pooled]}"])
def test_a_scenario_that_no_hospital_can_carry_out(kits: Path, tiny: Path, override: str) -> None:
    found = [finding for finding in examine(site(kits), load(tiny, (override,))) if finding.state == "fail"]
    assert "tiny: pooled: images of real hospitals stay where they are; take it out" in [own.what for own in found]


def test_of_a_study_every_run_that_there_can_be_is_named_by_its_hash(kits: Path, tiny: Path) -> None:
    study = load(
        tiny, ("protocol={kind: holdout, baselines: [local], seeds: [0, 1], tune: {training.lr: [0.01, 0.1]}}",)
    )
    named = [f.what for f in examine(site(kits, approve=[]), study) if f.what.startswith("scenario tiny, ")]
    assert len(set(named)) == (1 + 3) * 2 * 2
    run = spelled_out(load(tiny, ("federation.train=bergen", "training.lr=0.1", "seed=1")))
    assert f"scenario tiny, local, without edinburgh, at bergen, training.lr=0.1, seed 1: sha256 {run.sha256}" in named


def test_the_command_counts_what_is_to_be_mended(kits: Path, command: Command) -> None:
    done = command("site", "check", site(kits, superlink="lab.invalid:8000").root)
    assert done.returncode == 2
    assert "fail  lab.invalid is a name that this machine cannot look up" in done.stdout
    assert "fail  no dataset in" in done.stdout and done.stdout.rstrip().endswith("2 to mend")
    assert "site.yaml does not exist; give a hospital's kit" in command("site", "check", kits).stderr
    assert not list((kits / "oslo" / "state").iterdir()), "it changes nothing"
