"""What a client is told when its request, or one image of it, can't be judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RefusalError(Exception):
    """Why a request or an image is not judged.

    Args:
        status: HTTP status.
        code: the kind, for programs.
        reason: for people: what was found, what was expected.
        retry_after_s: when to try again, where that helps.
    """

    status: int
    code: str
    reason: str
    retry_after_s: int | None = None

    def record(self) -> dict[str, str]:
        """As it is answered."""
        return {"code": self.code, "reason": self.reason}


def too_many(limit: int) -> RefusalError:
    return RefusalError(
        413, "too_many_images", f"the request holds more than {limit} images; expected at most that many "
        "(serving.max_images)."
    )  # fmt: skip


def overloaded(reason: str) -> RefusalError:
    """The one refusal that is not the client's doing."""
    return RefusalError(503, "overloaded", f"{reason} Try again in a moment.", retry_after_s=1)
