"""Requests made from openapi.json, right and wrong ones: every answer is one that the document promises.

FUZZ_SECONDS=600 looks for that long in each state; without it a run is short and starts from the same seed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from churn.domain.access import Scope
from churn.stores.api_keys import KeyFile
from serving import openapi
from serving.app import ROUTES, create_app
from tests.serving.conftest import Site, serving

LONG = int(os.environ.get("FUZZ_SECONDS", "0"))
BOUNDS = ["--max-time", str(LONG), "--max-examples", "100000"] if LONG else ["--max-time", "20", "--max-examples", "20"]
SEED = "20111010"
# What a schema cannot say: of which kind a deployment's ids are, that an Idempotency-Key belongs to one request, and
# that a tensor's data must fill its shape.
UNSAID = {
    "POST /v1/score": [422],
    "POST /v1/score/features": [422],
    "GET /v1/users/{user_id}/score": [422],
    "POST /v2/models/{model}/infer": [400, 422],
    "POST /v2/models/{model}/versions/{version}/infer": [400, 422],
}
RIGHT = ["2xx", "401", "403", "404", "409", "429", "5xx"]
COMMAND = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


def configuration(*, down: bool) -> str:
    """With the store down 503 is a promised answer; else no answer may be a server error."""
    lines = [f"[checks.not_a_server_error]\nexpected-statuses = {['2xx', '3xx', '4xx', *(['503'] if down else [])]}"]
    for name, statuses in UNSAID.items():
        expected = [*RIGHT, *map(str, statuses)]
        lines.append(
            f'[[operations]]\ninclude-name = "{name}"\n[operations.checks]\n'
            f"positive_data_acceptance.expected-statuses = {expected}"
        )
    return "\n".join(lines) + "\n"


def fuzz(address: str, key: str, folder: Path, *, down: bool) -> subprocess.CompletedProcess[str]:
    (folder / "schemathesis.toml").write_text(configuration(down=down))
    options = ["--url", address, "--header", f"Authorization: Bearer {key}", "--seed", SEED, "--no-color", *BOUNDS]
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "run", str(openapi.PATH), "--checks", "all", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.mark.fault("A1")
@pytest.mark.timeout(LONG + 240)
@pytest.mark.parametrize("down", [False, True], ids=["all is well", "the feature store is down"])
def test_every_answer_is_one_that_the_document_promises(down: bool, site: Site, tmp_path: Path) -> None:
    site.promote(version="3")  # the version of the document's examples
    site.online.down = down
    keys = KeyFile(tmp_path / "keys.json")
    key = keys.add("fuzz", frozenset(Scope))
    with serving(create_app(replace(site.parts, keys=keys, webhook_secret=SecretStr("s" * 32)))) as address:
        done = fuzz(address, key, tmp_path, down=down)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ROUTES)}/{len(ROUTES)}" in done.stdout, "some routes were left out"
