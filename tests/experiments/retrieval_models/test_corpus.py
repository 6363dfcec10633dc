"""Releases of a package by name, from the registry that pip is told of; here a folder of wheels."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from retentive.experiments.retrieval_evidence.documentation import documentation_of
from retentive.experiments.retrieval_models.config import ModelsConfig
from retentive.experiments.retrieval_models.corpus import fetched, prepared

METADATA = (
    "Metadata-Version: 2.1\nName: tale\nVersion: {0}\nLicense: MIT\n\nThe tale of {0} is long. " + 40 * "It goes on. "
)
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
MODULE = '''"""A module that says what it does in some words."""


def tell(name):
    """Tell the tale of a name.

    WORDS
    """
    return "not documentation"
'''.replace("WORDS", 20 * "A name is a string of letters. ")


def write_wheel(folder: Path, version: str, text: str) -> None:
    info = f"tale-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tale-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tale/page.md", text)
        wheel.writestr("tale/__init__.py", MODULE)
        wheel.writestr(f"{info}/METADATA", METADATA.format(version))
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        write_wheel(folder, version, f"page of {version}. " + 40 * "Words of the page. ")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_releases_become_revisions_with_the_last_one_held_out(registry: Path, tmp_path: Path):
    config = ModelsConfig(
        package="tale",
        releases=("1.0", "2.0"),
        pattern="**/*.md,**/METADATA",
        output=tmp_path / "made",
        heldout_bytes=100,
    )
    store = prepared(config)
    assert set(store.document_names("heldout")) == {"2.0/tale/page.md", "2.0/tale-2.0.dist-info/METADATA"}
    assert set(store.document_names("train")) == {"1.0/tale/page.md", "1.0/tale-1.0.dist-info/METADATA"}
    with pytest.raises(OSError, match=r"tale==3\.0 was not fetched .*is it a release with a wheel"):
        fetched("tale", ("3.0",), tmp_path / "made" / "corpus")


def test_documentation_is_read_and_no_code_is(registry: Path, tmp_path: Path):
    folder = documentation_of(("tale",), tmp_path / "documentation")
    texts = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.txt")}
    assert set(texts) == {"tale/tale/page.md.txt", "tale/tale/__init__.py.txt", "tale/tale-2.0.dist-info/METADATA.txt"}
    assert "Tell the tale" in texts["tale/tale/__init__.py.txt"]
    assert "not documentation" not in texts["tale/tale/__init__.py.txt"]
    assert "tale: MIT" in (folder.parent / "LICENCES.md").read_text()


def test_a_python_that_cannot_unpack_safely_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with tarfile.open(tmp_path / "texts.tar", "w") as archive:
        archive.add(__file__, "text.txt")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with pytest.raises(
        ValueError, match=r"older than 3\.11\.4, which cannot unpack .*texts\.tar safely: unpack it, and"
    ):
        prepared(ModelsConfig(corpus=tmp_path / "texts.tar", output=tmp_path / "made"))


def test_what_is_no_name_or_no_corpus_is_refused(tmp_path: Path):
    for name in ("--index-url=x", "a b", "../x", ""):
        with pytest.raises(ValueError, match="package must be the name of a package"):
            fetched(name, ("1.0", "2.0"), tmp_path)
    with pytest.raises(ValueError, match=r"releases must be versions such as 2\.1\.0, but one is"):
        fetched("tale", ("1.0; rm", "2.0"), tmp_path)
    with pytest.raises(ValueError, match="corpus must be a folder of text or a tar archive, or package"):
        ModelsConfig()
    with pytest.raises(ValueError, match="releases must be at least two releases"):
        ModelsConfig(package="tale", releases=("1.0",))
    with pytest.raises(ValueError, match="releases must be at least two releases"):
        ModelsConfig(corpus=tmp_path, releases=("1.0",))
