"""What is told of the captured image of a folder of results; needs no extension."""

import json
from pathlib import Path
from typing import Any

FOLDER = "image"


def layout_in(folder: Path) -> dict[str, Any] | None:
    """The program that the image is of, and its areas, also after the image was dropped; None where there is none."""
    path = folder / FOLDER / "layout.json"
    layout: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return layout
