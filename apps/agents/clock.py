"""The clock: what time it is, in any time zone."""

from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field

from apps.agents.tools import ToolError


def clock(
    time_zone: Annotated[
        str, Field(description="IANA name such as Europe/Berlin or UTC", max_length=64, pattern=r"^[A-Za-z0-9_+/\-]+$")
    ] = "UTC",
) -> dict[str, str]:
    """Tell the date, the weekday and the time now."""
    try:
        # a name with dots or a leading slash is refused by the pattern, so that none leads out of the database
        zone = UTC if time_zone.upper() == "UTC" else ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError):
        raise ToolError(f"There is no time zone {time_zone}; write a name such as Europe/Berlin") from None
    now = datetime.now(zone)
    return {
        "time": now.isoformat(timespec="seconds"),
        "weekday": now.strftime("%A"),
        "time_zone": time_zone,
    }
