"""The golden vectors: bytes that gVisor's own Go code produced for known field values."""

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "docs/vectors"


class Vector(NamedTuple):
    mid: int
    message: str
    fields: dict[str, Any]
    raw: bytes

    @property
    def is_request(self) -> bool:
        return self.message.endswith("Req")


def _load(name: str) -> list[Vector]:
    rows = json.loads((FOLDER / name).read_text())
    return [Vector(row["mid"], row["message"], row["fields"], bytes.fromhex(row["hex"])) for row in rows]


VECTORS = _load("lisafs.json")
REQUESTS = [vector for vector in VECTORS if vector.is_request]
BY_NAME = {vector.message: vector for vector in VECTORS}
VECTORS_2021 = _load("lisafs-2021.json")
BY_NAME_2021 = {vector.message: vector for vector in VECTORS_2021}


def number(value: Any) -> int:
    """A field of the file: large numbers are written as hexadecimal text."""
    return int(value, 16) if isinstance(value, str) else int(value)
