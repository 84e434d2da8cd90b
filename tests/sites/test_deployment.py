"""The coordinator's own way to the server: what no waiting mends is said once, and ends the command."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedkvasir.deployment import _begun, run_on
from fedkvasir.errors import UserError
from fedkvasir.names import spelled_out
from fedkvasir.plan import make_plan
from fedkvasir.scenario import load
from tests.conftest import TINY
from tests.sites.impostors import answering, certified, certified_by_itself

DEADLINE = "federation.deadline_s=60"


def conduct(kits: Path, address: str, *overrides: str) -> None:
    path = kits / "server" / "server.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"address": address}))
    scenario = kits / "tiny.yaml"
    scenario.write_text(TINY)
    run_on(load(scenario, (DEADLINE, *overrides)), str(kits / "server"), kits / "runs")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.timeout(60)
def test_a_server_of_another_secret_ends_the_command(kits: Path, status: int) -> None:
    tls, secret = certified(kits), kits / "server" / "superexec.secret"
    with answering(tls, status) as address, pytest.raises(UserError) as told:
        conduct(kits, address)
    assert str(told.value) == (
        f"{address} refuses the secret in {secret} (HTTP {status}): take the folder that its server was started from"
    )


@pytest.mark.timeout(60)
def test_a_clock_that_is_off_ends_the_command(kits: Path) -> None:
    with (
        answering(certified(kits), 401, clock_s=-3600) as address,
        pytest.raises(
            UserError, match=r"36\d\d s ahead of the server's, which refuses what is signed with it: have it set"
        ),
    ):
        conduct(kits, address)


def of_another_authority(kits: Path) -> ssl.SSLContext:
    tls = certified(kits)
    certified_by_itself(kits / "server" / "ca.crt")
    return tls


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (of_another_authority, "is not signed by the authority in ca.crt"),
        (lambda kits: certified(kits, host="other.example.org"), "is for another host"),
    ],
)
@pytest.mark.timeout(60)
def test_a_server_that_is_not_the_kits_ends_the_command(
    kits: Path, tls: Callable[[Path], ssl.SSLContext], words: str
) -> None:
    with answering(tls(kits)) as address, pytest.raises(UserError, match=f"the certificate of {address} {words}"):
        conduct(kits, address)


@pytest.mark.timeout(60)
def test_a_number_that_cannot_be_is_refused_before_any_hospital_is_asked(kits: Path) -> None:
    with pytest.raises(UserError, match="patients_per_center = 10000000: input should be less than or equal to 1000"):
        conduct(kits, "localhost:1", "data.options.synthetic.patients_per_center=10000000")


def test_a_run_that_was_begun_is_found_by_all_that_decides_on_its_numbers(tiny: Path, tmp_path: Path) -> None:
    scenario, out = spelled_out(load(tiny, (DEADLINE,))), tmp_path / "runs"
    plan = make_plan(scenario)
    plan.save(out / plan.name)
    (out / "tiny-00000000").mkdir()
    (out / "tiny-00000000" / "plan.json").write_text("{")
    assert [own.name for own in _begun(scenario, out)] == [plan.name]
    for other in ("seed=1", "model.weights=imagenet", "resources.threads_per_center=2"):
        assert not _begun(spelled_out(load(tiny, (DEADLINE, other))), out)
    assert not _begun(scenario, tmp_path / "nowhere")
