# SPDX-License-Identifier: Apache-2.0
"""Writes the dashboards' JSON. Usage, in the folder above grafana: python3 -m grafana.source"""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.source import commands, files, health, network, overview

FOLDER = Path(__file__).resolve().parents[1] / "dashboards"


def texts() -> dict[str, str]:
    """Returns the JSON of all dashboards, by the names of their files."""
    built = [module.build().build() for module in (overview, files, commands, network, health)]
    return {f"{found.uid}.json": JSONEncoder(indent=2, sort_keys=True).encode(found) + "\n" for found in built}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
