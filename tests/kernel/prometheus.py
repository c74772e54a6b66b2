# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus server that scrapes a test's daemon, with a config, storage and port of its own."""

import http.client
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from tests.kernel.daemon import START_SECONDS, free_port

# how often it scrapes, and how long it waits for a page; an emulated processor takes its time
INTERVAL = "5s" if "EBPF_EXPORTER_TEST_EMULATED" in os.environ else "500ms"
POLL_SECONDS = 0.05  # Prometheus tells nobody when it has scraped

Key = tuple[str, frozenset[tuple[str, str]]]  # a name and labels, as in daemon.Samples
View = dict[Key, list[tuple[float, float]]]  # of each series (Unix time of the scrape, value), one after the other


class Prometheus:
    """``prometheus`` with one target, from its first successful scrape of it to its end."""

    def __init__(self, target_port: int, settings: Mapping[str, Any] | None = None, rules: Sequence[Path] = ()) -> None:
        """settings are further ones of its scrapes, such as a password. rules are files of rules."""
        self._settings = settings or {}
        self._rules = [str(path) for path in rules]
        self._target = f"127.0.0.1:{target_port}"
        self._port = free_port()
        self._temporary = tempfile.TemporaryDirectory()
        self._work = Path(self._temporary.name)
        self._log = (self._work / "log").open("w+b")

    def __enter__(self) -> Self:
        config = {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": self._rules,
            "scrape_configs": [{"job_name": "test", "static_configs": [{"targets": [self._target]}], **self._settings}],
        }
        (self._work / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self._work / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._work / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(60)
        if error is not None:
            print(self.log())
        self._log.close()
        self._temporary.cleanup()

    def log(self) -> str:
        return (self._work / "log").read_text(errors="backslashreplace")

    def wait_for_scrape(self, after: float) -> None:
        """Returns when there are, of each target, the samples of a scrape that began after this Unix time."""
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            targets = self._up()
            if targets and all(any(moment > after and value for moment, value in one) for one in targets):
                return
            assert self._process.poll() is None, self.log()
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"Prometheus did not scrape:\n{self.log()}")

    def scrapes(self) -> int:
        """Returns how many scrapes succeeded."""
        return sum(bool(value) for samples in self._up() for _, value in samples)

    def _up(self) -> list[list[tuple[float, float]]]:
        try:
            return [[(float(at), float(value)) for at, value in series["values"]] for series in self.query("up[1h]")]
        except (ConnectionRefusedError, http.client.HTTPException):  # it starts
            return []

    def samples(self, selector: str) -> View:
        """Returns all samples of the series that a selector selects, just as they were scraped."""
        return {
            _key(series["metric"]): [(float(moment), float(value)) for moment, value in series["values"]]
            for series in self.query(f"{selector}[1h]")
        }

    def last(self, selector: str) -> dict[Key, float]:
        """Returns what the last scrape that succeeded brought, of the series that a selector selects."""
        found = self.samples(selector)
        latest = max(values[-1][0] for values in found.values())
        return {key: values[-1][1] for key, values in found.items() if values[-1][0] == latest}

    def now(self, expression: str) -> dict[Key, float]:
        """Returns an expression's value now."""
        return {_key(series["metric"]): float(series["value"][1]) for series in self.query(expression)}

    def query(self, expression: str, **parameters: float) -> list[dict[str, Any]]:
        """Returns the series of an expression's value, as the API has them; time may be a parameter."""
        return list(self.get("query", query=expression, **parameters)["result"])

    def get(self, path: str, **parameters: str | float) -> Any:
        """Returns the data that the API has under a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(parameters)}")
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == http.client.SERVICE_UNAVAILABLE:
            raise http.client.HTTPException("not ready")
        assert response.status == 200, body
        return json.loads(body)["data"]


def _key(metric: dict[str, str]) -> Key:
    labels = {name: value for name, value in metric.items() if name not in ("__name__", "job", "instance")}
    return metric.get("__name__", ""), frozenset(labels.items())
