"""The harness's own command, ``lm_eval``, in an environment of its own that is lent what is installed here."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from evaluation.harness.harness_tasks import write_tasks
from laws.families import small_model
from retentive.checkpoints import save_model
from retentive.evaluation.harness.command import FILE_NAME, install, uninstall
from retentive.text.byte_tokenizer import ByteTokenizer

NAMES = "local_choice,local_rolling,local_writing"
LM_EVAL = Path(sysconfig.get_path("scripts")) / "lm_eval"
"""The script that pip wrote; it is run by the Python of the environment under test."""


class Environment:
    """A new virtual environment that reads this one's packages after its own."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site_packages = Path(self.run("-c", code).stdout.strip())
        lent = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (self.site_packages / "lent.pth").write_text(lent)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), "-I", *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.python.parents[1])
        assert run.returncode == 0, run.stderr[-3000:]
        return run


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """What stands behind the command: a saved model and local tasks."""
    model, tasks = tmp_path_factory.mktemp("retnet"), tmp_path_factory.mktemp("tasks")
    save_model(small_model("retnet", dtype=torch.float32, vocab_size=257), model, ByteTokenizer())
    write_tasks(tasks)
    asked = ["--model", "retentive", "--model_args", f"pretrained={model}"]
    return [*asked, "--tasks", NAMES, "--include_path", tasks]


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """What a run of the harness wrote into a folder; names of stand-ins left out."""
    (file,) = folder.rglob("results_*.json")
    return json.loads(file.read_text())["results"]


def test_lm_eval_knows_our_models_once_it_is_told(environment: Environment, options: list[str | Path], tmp_path: Path):
    told = environment.run("-m", "retentive.evaluation.harness", "--install").stdout
    assert str(environment.site_packages / FILE_NAME) in told
    assert "python -m retentive.evaluation.harness --uninstall" in told
    environment.run(LM_EVAL, *options, "--output_path", tmp_path / "theirs")
    environment.run("-m", "retentive.evaluation.harness", *options, "--output_path", tmp_path / "ours")
    assert measured(tmp_path / "theirs") == measured(tmp_path / "ours")
    assert set(measured(tmp_path / "theirs")) == set(NAMES.split(","))


KNOWN = "from lm_eval.api.registry import get_model, model_registry; get_model('dummy'); print(*model_registry)"


def test_its_own_models_stay_and_ours_comes_and_goes(environment: Environment):
    install(environment.site_packages)
    with_ours = environment.run("-c", KNOWN).stdout.split()
    assert uninstall(environment.site_packages).startswith("removed ")
    assert uninstall(environment.site_packages).startswith("there is no ")
    without = environment.run("-c", KNOWN).stdout.split()
    assert set(with_ours) - set(without) == {"retentive"}
    assert set(without) < set(with_ours)


def test_the_class_can_be_imported_before_the_harness_looks(environment: Environment):
    code = "from retentive.evaluation.harness.model import RetentiveLM as R; from lm_eval.api.registry import get_model"
    checks = "get_model('dummy'); assert get_model('retentive') is R"
    for told in (install, uninstall):
        told(environment.site_packages)
        environment.run("-c", f"{code}; {checks}")


def test_written_twice_and_in_two_folders_it_is_one(environment: Environment, tmp_path: Path):
    assert install(environment.site_packages) == install(environment.site_packages)
    second = environment.site_packages / "second"
    second.mkdir()
    install(second)
    (environment.site_packages / "second.pth").write_text(f"import site; site.addsitedir({str(second)!r})\n")
    finders = "import sys; print(sum(getattr(f, '__name__', '') == 'HarnessFinder' for f in sys.meta_path))"
    assert environment.run("-c", finders).stdout.strip() == "1"
    assert environment.run("-c", KNOWN).stdout.split().count("retentive") == 1
    uninstall(second)


def test_python_starts_without_importing_anything_for_it(environment: Environment):
    code = "import sys; print(*sorted(sys.modules))"
    uninstall(environment.site_packages)
    before = environment.run("-c", code)
    install(environment.site_packages)
    after = environment.run("-c", code)
    assert after.stdout == before.stdout
    assert not after.stderr


def test_a_removed_package_leaves_python_and_the_harness_whole(tmp_path: Path):
    environment = Environment(tmp_path / "venv")
    # A bare path lends packages, and not what is installed for editing, as `retentive` is.
    (environment.site_packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install(environment.site_packages)
    gone = "import importlib.util as u; assert u.find_spec('retentive') is None; "
    run = environment.run("-c", gone + KNOWN)
    assert "hf" in run.stdout.split()
    assert "retentive" not in run.stdout.split()
    assert not run.stderr


def test_a_harness_with_another_table_is_left_alone(tmp_path: Path):
    environment = Environment(tmp_path / "venv")
    install(environment.site_packages)
    package = environment.site_packages / "lm_eval"
    (package / "api").mkdir(parents=True)
    for file in ("__init__.py", "api/__init__.py", "api/registry.py"):
        (package / file).touch()
    (package / "models.py").write_text("NAMES = 'of another release'\n")
    run = environment.run("-c", "from lm_eval.models import NAMES; print(NAMES)")
    assert (run.stdout, run.stderr) == ("of another release\n", "")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"site-packages must be writable, but .*file is not .*cure: use an environment"):
        install(tmp_path / "file")
