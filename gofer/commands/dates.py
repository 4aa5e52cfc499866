"""Times as `touch` and `find -newermt` take them."""

from __future__ import annotations

import re
import time

from gofer import Failure


def moment(text: str) -> tuple[int, int]:
    """(seconds since 1970, nanoseconds) of a date in ISO 8601, or of @SECONDS. Failure where it is none."""
    from datetime import datetime, timezone

    found = re.fullmatch(r"@(-?\d+)(?:\.(\d{1,9})\d*)?", text)
    if found and len(found[1]) < 20 and -(2**63) <= int(found[1]) < 2**63:
        return int(found[1]), int((found[2] or "").ljust(9, "0"))
    parts = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9})\d*)?)?\s*(Z|UTC|[-+]\d\d:?\d\d)?", text)
    try:
        if not parts:
            raise ValueError
        zone = parts[4] or ""
        zone = "+00:00" if zone in ("Z", "UTC") else zone if ":" in zone or not zone else f"{zone[:3]}:{zone[3:]}"
        when = datetime.fromisoformat(f"{parts[1]}T{parts[2] or '00:00'}{zone}")
        since = (when if when.tzinfo else when.astimezone()) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    except (OverflowError, ValueError):
        raise Failure(f"{text!r} is no time; give it as in 2026-11-27T12:34:56, or @SECONDS since 1970") from None
    return since.days * 86400 + since.seconds, int((parts[3] or "").ljust(9, "0"))


def stamp(text: str) -> tuple[int, int]:
    """The same of what `touch -t` takes."""
    found = re.fullmatch(r"(?:(\d\d)?(\d\d))?(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d\d))?", text)
    if not found:
        raise Failure(f"{text!r} is no time; give it as [[CC]YY]MMDDhhmm[.ss]")
    century, year, month, day, hour, minute, second = found.groups()
    if year is None:
        full = time.localtime().tm_year
    else:
        full = int(century or ("19" if int(year) > 68 else "20")) * 100 + int(year)
    return moment(f"{full:04}-{month}-{day}T{hour}:{minute}:{second or '00'}")
