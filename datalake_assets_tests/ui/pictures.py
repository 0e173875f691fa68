"""Put the pictures of the documents into docs/pictures: `make pictures` calls it with a folder.

They are made by `test_pictures`, and lose here what makes them large: most of their colours.
"""

import sys
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs" / "pictures"
PICTURES = {"readme_dagster.png": "dagster.png", "readme_report.png": "report.png"}
LARGEST = 200_000
"""Bytes: what a page may be slowed down by."""


def take(screenshots: Path) -> None:
    """Write each picture with 128 colours.

    Raises:
        FileNotFoundError: There is no such screenshot.
        ValueError: A picture is too large all the same.
    """
    for taken, name in PICTURES.items():
        with Image.open(screenshots / taken) as picture:
            picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
                DOCS / name, optimize=True
            )
        if (size := (DOCS / name).stat().st_size) > LARGEST:
            raise ValueError(f"{DOCS / name} has {size:,} bytes, more than {LARGEST:,}")


if __name__ == "__main__":
    take(Path(sys.argv[1]))
