"""A store of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.store import Store
from tests.playground.serving import Served, serving
from tests.playground.stored_runs import whole_run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "runs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        assert store.problem is None
        yield store


@pytest.fixture
def recorded(path: Path) -> str:
    """A database with one finished run, closed again; its id."""
    with Store.open(path) as store:
        kept = store.recording(iter(whole_run()))
        list(kept)
    return kept.run_id or ""


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that speak HTTP, with a secret in its environment."""
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served
