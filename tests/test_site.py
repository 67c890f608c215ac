"""The documentation is built without a warning, and what it takes from the code is of now."""

import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import generate
import mistakes
import pytest

import pyuffd

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", folder / "doctrees", DOCS, folder / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_docs_have_every_public_name(site: Path) -> None:
    told = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    aliases = {
        "Beyond",
        "Ending",
        "Guard",
        "Install",
        "Missing",
        "Mode",
        "OnRemove",
        "OnSigterm",
        "Placement",
        "Present",
    }  # types of arguments
    names = set(pyuffd.__all__) - aliases - {"__version__", "handoff"}
    missing = [name for name in sorted(names) if f'id="pyuffd.{name}"' not in told and f'.{name}"' not in told]
    assert not missing


def test_docs_link_to_what_was_measured(site: Path) -> None:
    page = (site / "explanation" / "performance.html").read_text()
    assert 'href="../results/report.html"' in page
    assert (site / "results" / "report.html").exists()


def test_docs_are_all_in_the_site(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        if not page.parent.name.startswith("results"):
            assert (site / page.relative_to(DOCS)).with_suffix(".html").exists(), page


@pytest.mark.requires_full_userfaultfd
def test_docs_are_of_now() -> None:
    for path, text in generate.written().items():
        assert path.read_text() == text, f"{path.name}: run python docs/generate.py"


def test_docs_pictures_can_be_read() -> None:
    pictures = sorted((DOCS / "pictures").glob("*.svg"))
    assert [picture.stem for picture in pictures] == ["ending", "hand-off", "life-of-a-fault"]
    for picture in pictures:
        drawn = xml.etree.ElementTree.fromstring(picture.read_text())
        width = float(drawn.attrib["width"])
        for text in drawn.iter("{http://www.w3.org/2000/svg}text"):
            assert 0 < float(text.attrib["x"]) < width


@pytest.mark.requires_full_userfaultfd
def test_errors_that_are_none_are_noticed() -> None:
    with pytest.raises(AssertionError, match="nothing was raised"):
        mistakes.answer(lambda: None)
    assert mistakes.table().count("\n") >= 2 + 15
