"""What the server says: the shape of its answers, for the OpenAPI page and for clients made from it; and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Data(_Answer):
    """The data revision that a version was learned at."""

    digest: str = Field(description="data.dvc's root digest")
    commit: str | None = Field(description="the git commit that pinned it")


class Model(_Answer):
    """Which model version gave a verdict."""

    name: str = Field(description="the registered model", examples=["lorax"])
    version: int = Field(examples=[5])
    state: str = Field(description="digest of the learner state")
    data: Data


class Problem(_Answer):
    """Why something was not judged."""

    code: str = Field(description="for programs", examples=["damaged"])
    reason: str = Field(description="for people", examples=["the image can't be decoded: image file is truncated."])


class ImageVerdict(_Answer):
    """What the model says of one image."""

    name: str = Field(description="the file's name as it was sent, or its place in the request", examples=["photo.png"])
    sha256: str = Field(description="of the file's bytes")
    verdict: str = Field(
        description="real, synthetic:GENERATOR, synthetic (no single generator is sure: see one_of), "
        "synthetic:unknown, undecided, or undecided: too little to see",
        examples=["real"],
    )
    generator: str | None = Field(description="the generator's label, where the verdict names one")
    one_of: list[str] = Field(
        description="where the verdict is synthetic: the generators that are confused, of which it is one; empty: any"
    )
    probability: float = Field(description="of what the verdict says", examples=[0.97])
    probabilities: dict[str, float] = Field(description="of each class")
    calibrated: bool = Field(description="whether the probabilities were calibrated on images held out for that")
    real: float = Field(description="probability of all real classes together")
    strangeness: float | None = Field(description="how unlike anything learned the image is; null where uncalibrated")
    threshold: float | None = Field(description="what is stranger than this is like nothing that was learned")
    crops: int = Field(description="how many crops of the image were averaged")
    answered_by: str = Field(
        description="student: it was sure, from what one pass tells; branches: all of them were asked",
        examples=["student"],
    )
    model: Model


class ImageProblem(_Answer):
    """An image that was not judged; the others of its request were."""

    name: str
    sha256: str | None = Field(description="of the file's bytes, where there were any")
    error: Problem


class Verdicts(_Answer):
    """One entry for each image, in the order of the request."""

    results: list[ImageVerdict | ImageProblem]


class Refused(_Answer):
    """Nothing of the request was judged. `results` tells what is wrong with each image, where that is why."""

    error: Problem
    results: list[ImageProblem] | None = None


class Following(_Answer):
    """How the server keeps up with the registry."""

    alias: str = Field(examples=["champion"])
    looked_at: datetime = Field(description="when the registry last answered")
    error: str = Field(description="why the version that the alias names is not served; empty when all is well")


class Health(_Answer):
    """Whether the server lives, and whether it judges."""

    status: str = Field(
        description="ok; degraded: it judges, but by the version of before; draining: it judges, and is about to end; "
        "failed: it does not"
    )
    live: bool
    ready: bool
    version: int
    following: Following | None = Field(description="null where the version was pinned")


class ServedClass(_Answer):
    """One class that the version knows."""

    label: str
    task: str
    is_real: bool


class Limits(_Answer):
    """What a request may bring."""

    max_images: int
    max_image_mb: float
    max_request_mb: float
    max_pixels: int
    timeout_s: float


class Version(Model):
    """What is served now."""

    alias: str | None = Field(description="what names the version; null where it was pinned")
    classes: list[ServedClass]
    calibrated: bool
    lorax: str = Field(description="version of the package")
    limits: Limits


class Tile(_Answer):
    """What is said of one square of an image, judged as if it were all."""

    top: int
    left: int
    verdict: str
    generator: str | None
    one_of: list[str]
    probability: float
    real: float
    strangeness: float | None


class Notes(_Answer):
    """What a file holds beside pixels, by name: anyone can write or strip it, and no verdict looks at it."""

    format: str
    exif: list[str] = Field(description="names of tags")
    text: list[str] = Field(description="keys of PNG's text")
    xmp: bool
    c2pa: bool = Field(description="whether a manifest appears to be there; its signature is not checked")


class TiledVerdict(ImageVerdict):
    """What the model says of one image, and of squares that are spread evenly over it."""

    width: int = Field(description="of the image, pixels")
    height: int
    side: int = Field(description="of a square, pixels")
    columns: int = Field(description="how many squares lie side by side")
    tiles: list[Tile] = Field(description="row by row; none where the image is hardly larger than one")
    notes: Notes


class KnownTask(_Answer):
    """One task that the version knows."""

    name: str
    generators: list[str] = Field(description="labels of its synthetic classes")
    accuracy: list[float] = Field(description="on its test images, after its own episode and each later one")
    version: int | None = Field(description="that learned it; null where that is not known (any more)")
    learned_at: datetime | None
    nearest: str = Field(description="the task whose branch was most like its own then; empty where that is not known")
    similarity: float | None = Field(description="how much: a cosine")


class Description(Model):
    """What the served version knows, and what is known of it."""

    alias: str | None
    calibrated: bool
    made_at: datetime | None = Field(description="when it was registered")
    promoted_at: datetime | None
    classes: list[ServedClass]
    tasks: list[KnownTask] = Field(description="in the order of learning")
    average: list[float | None] = Field(description="average accuracy after each episode")
    confused: list[list[str]] = Field(description="generators that it confuses, smaller groups first")
    robustness: dict[str, float] = Field(description="accuracy on test images by what was done to them; 'clean': none")
    card: str | None = Field(description="the model card, Markdown")
    problem: str = Field(description="why the registry could not tell all of it; empty when all is well")
    limits: Limits


@dataclass
class RefusalError(Exception):
    """Why a request or an image is not judged."""

    status: int  # HTTP status
    code: str  # the kind, for programs
    reason: str  # for people: what was found, what was expected
    retry_after_s: int | None = None  # when to try again, where that helps

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
