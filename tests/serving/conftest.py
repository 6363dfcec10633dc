"""One server for the tests that do not change how it is set up."""

from collections.abc import Generator
from pathlib import Path

import pytest

from retentive.serving.config import ServeConfig
from serving.serving import Running, running, save_small_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("served") / "small")


@pytest.fixture(scope="session")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    sessions = str(tmp_path_factory.mktemp("sessions"))
    with running(ServeConfig(checkpoint=model_folder, port=0, sessions=sessions)) as one:
        yield one
