"""What is in a kit besides keys: the scripts run, the units and files are what their programs read."""

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from fedkvasir.sites.federation import SiteKit
from fedkvasir.sites.kit import write_kits
from tests.sites.conftest import HOSPITALS, Coordinator

FOLDERS = ("server", *HOSPITALS)
LOOKALIKES = ("no", "null", "1e3", "0x1f", "2027-11-22", "0", "a" * 40)
"""Names that YAML would read as something else, if they were not quoted."""


@pytest.fixture(scope="module")
def odd(coordinator: Coordinator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits of hospitals with odd names, and of a server on a port that only root may bind."""
    out = tmp_path_factory.mktemp("odd") / "kits"
    write_kits(coordinator(address="lab.example.org:443", hospitals=list(LOOKALIKES)), out)
    return out


@pytest.mark.parametrize("folder", FOLDERS)
def test_start_sh_starts_the_folder_it_lies_in(written: Path, tmp_path: Path, folder: str) -> None:
    """From anywhere, with a blank in the path, and becomes that program: a signal to the script reaches it."""
    kit = shutil.copytree(written / folder, tmp_path / "a kit" / folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fedkvasir").write_text('#!/bin/sh\necho "$$ $#" "$@"\nexit 3\n')
    (tmp_path / "bin" / "fedkvasir").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    process = subprocess.Popen([kit / "start.sh"], cwd="/", env={"PATH": path}, stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=30)
    assert said == f"{process.pid} 3 site start {kit}\n"
    assert process.returncode == 3
    assert subprocess.run(["bash", "-n", kit / "start.sh"]).returncode == 0
    bare = {"PATH": "/usr/bin:/bin"}
    lost = subprocess.run([kit / "start.sh"], cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert lost.returncode == 127 and "fedkvasir" in lost.stderr


def test_start_sh_is_clean_to_shellcheck(written: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    assert subprocess.run(["shellcheck", *(written / name / "start.sh" for name in FOLDERS)]).returncode == 0


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_unit_restarts_what_fails_and_may_write_one_folder(written: Path, folder: str) -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    assert unit.read(written / folder / f"fedkvasir-{folder}.service")
    service = unit["Service"]
    assert service["ExecStart"] == f"/opt/fedkvasir/{folder}/start.sh"
    assert service["ReadWritePaths"] == f"/opt/fedkvasir/{folder}/state"
    assert (service["Restart"], service["NoNewPrivileges"], service["PrivateTmp"]) == ("on-failure", "yes", "yes")
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"]) == ("strict", "")
    assert (written / folder / "state").is_dir()  # a path to be written that is not there keeps a unit from starting


def test_systemd_reads_every_unit(written: Path, odd: Path, tmp_path: Path) -> None:
    """Every key is known to it, in its section, with a value it takes: it says nothing at all."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    units = []
    for unit in (*written.glob("*/*.service"), odd / "server" / "fedkvasir-server.service"):
        kit, copy = f"/opt/fedkvasir/{unit.parent.name}", tmp_path / unit.parent.parent.parent.name / unit.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(unit.read_text().replace(f"ExecStart={kit}/start.sh", f"ExecStart={sys.executable}"))
        units.append(copy)
    for unit in units:
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), unit


def test_only_a_server_on_a_low_port_may_bind_one(written: Path, odd: Path) -> None:
    assert "CAP_NET_BIND_SERVICE" in (odd / "server" / "fedkvasir-server.service").read_text()
    for unit in (*written.glob("*/*.service"), odd / "no" / "fedkvasir-no.service"):
        assert "CAP_NET_BIND_SERVICE" not in unit.read_text()


@pytest.mark.parametrize("folder", FOLDERS)
def test_compose_mounts_the_kit_to_be_read_and_its_state_to_be_written(written: Path, folder: str) -> None:
    file = yaml.safe_load((written / folder / "compose.yaml").read_text())
    (name, service), *others = file["services"].items()
    assert (name, others, file["name"]) == (folder, [], f"fedkvasir-{folder}")
    mounts = {mount.rsplit(":", 2 if mount.endswith(":ro") else 1)[1]: mount for mount in service["volumes"]}
    assert mounts.pop("/kit") == "./:/kit:ro" and mounts.pop("/kit/state") == "./state:/kit/state"
    assert mounts == ({} if folder == "server" else {"/kit/data": "${FEDKVASIR_DATA:-./data}:/kit/data:ro"})
    assert service.get("ports") == (["8000:8000"] if folder == "server" else None)
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"].startswith("${FEDKVASIR_USER")
    assert service["security_opt"] == ["no-new-privileges:true"]
    for mount in ("state", *(["data"] if folder != "server" else [])):
        assert (written / folder / mount).is_dir()  # a mount point inside a mount that is read-only must exist


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_image_holds_no_file_of_the_kit(written: Path, folder: str) -> None:
    lines = [line for line in (written / folder / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    instructions = [line.split()[0] for line in lines]
    assert lines[0] == "FROM python:3.11-slim" and not {"ADD", "ARG"} & set(instructions)
    wheel = f"fedkvasir-{version('fedkvasir')}-py3-none-any.whl"
    assert lines[1:3] == [f"COPY {wheel} /tmp/", f"RUN pip install --no-cache-dir /tmp/{wheel}"], "of no index"
    assert instructions.count("COPY") == 1
    assert instructions.index("USER") < instructions.index("CMD") and "USER 1000:1000" in lines
    assert lines[-1] == 'CMD ["fedkvasir", "site", "start", "/kit"]'
    assert (written / folder / ".dockerignore").read_text().splitlines()[1:] == ["*", "!fedkvasir-*.whl"]


@pytest.mark.parametrize("name", HOSPITALS)
def test_a_hospitals_readme_answers_what_it_must_know(written: Path, name: str) -> None:
    text = " ".join((written / name / "README.md").read_text().split())
    site = SiteKit.load(written / name)
    for words in (
        f"Only outgoing connections, to **{site.superlink}**", f"**Expires: {site.expires}**", "fedkvasir site check .",
        "./start.sh", "No image, no mask, no file name and no patient number leaves", "mode 0600",
    ):  # fmt: skip
        assert words in text
    for path in (written / name).iterdir():
        assert f"`{path.name}" in text or path.name == "README.md"


def test_the_servers_readme_names_every_file(written: Path) -> None:
    text = (written / "server" / "README.md").read_text()
    for path in (written / "server").iterdir():
        assert f"`{path.name}" in text or path.name == "README.md"
    assert "oslo, bergen" in text and "8000" in text


@pytest.mark.parametrize("name", LOOKALIKES)
def test_an_odd_name_is_still_a_name_in_every_file(odd: Path, name: str) -> None:
    assert SiteKit.load(odd / name).hospital == name
    assert list(yaml.safe_load((odd / name / "compose.yaml").read_text())["services"]) == [name]
