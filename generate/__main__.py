# SPDX-License-Identifier: Apache-2.0
"""Writes all that is generated. Usage, in the folder above this one, with tests/requirements.txt installed:
python -m generate"""

from pathlib import Path

from generate import completion, pages, schemas

ROOT = Path(__file__).resolve().parents[1]


def texts() -> dict[str, str]:
    """Returns the texts of all files that are generated, by their paths below the project's folder."""
    return {path: text for module in (completion, pages, schemas) for path, text in module.texts().items()}


def main() -> None:
    for name, text in texts().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
