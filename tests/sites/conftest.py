"""A coordinator's file and the kits made from it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedkvasir.sites.federation import Federation, SiteKit
from fedkvasir.sites.kit import write_kits

HOSPITALS = ("oslo", "bergen")
Coordinator = Callable[..., Federation]


@pytest.fixture(scope="session")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    """``coordinator(valid_days=30)`` is a federation, as read from its file."""

    def federation(**keys: object) -> Federation:
        asked = {"name": "lab", "address": "lab.example.org:8000", "hospitals": list(HOSPITALS)} | keys
        path = tmp_path_factory.mktemp("coordinator") / "federation.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in asked.items()))
        return Federation.load(path)

    return federation


@pytest.fixture(scope="session")
def written(coordinator: Coordinator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits to look at."""
    out = tmp_path_factory.mktemp("written") / "kits"
    write_kits(coordinator(), out)
    return out


@pytest.fixture
def kits(written: Path, tmp_path: Path) -> Path:
    """Kits of one's own, to change."""
    return shutil.copytree(written, tmp_path / "kits")


def site(kits: Path, **settings: object) -> SiteKit:
    """Oslo's kit with other settings."""
    path = kits / "oslo" / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
    return SiteKit.load(kits / "oslo")
