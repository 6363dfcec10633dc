"""One server for the tests that do not change how it is set up."""

import os
import shutil
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


@pytest.fixture(scope="module")  # Playwright keeps an event loop in this thread, where others run their own
def browser() -> Generator:
    chromium = shutil.which("chromium")
    if chromium is None:
        said = "chromium is not installed (Debian: apt-get install chromium)"
        if os.environ.get("RETENTIVE_CI"):
            pytest.fail(said)
        pytest.skip(said)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        made = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield made
        made.close()
