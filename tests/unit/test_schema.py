"""results/record.schema.json is the schema of the code."""

from __future__ import annotations

import json
from pathlib import Path

from harness.record import json_schema

STORED = Path(__file__).parents[2] / "results" / "record.schema.json"


def test_stored_schema_is_current() -> None:
    assert json.loads(STORED.read_text(encoding="utf-8")) == json_schema(), (
        "run: python tests/unit/test_schema.py"
    )


if __name__ == "__main__":
    STORED.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
