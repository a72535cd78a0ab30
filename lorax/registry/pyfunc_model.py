"""A registered learner as MLflow runs it: `mlflow.pyfunc.load_model("models:/lorax@champion")`.

MLflow copies this file into every model version and runs it when one is loaded or served ("models from code"), so it
imports lorax and holds nothing that the installed package does better. One column of base64 images (or `data:` URIs)
goes in; each row comes back as verdict, generator, one_of (names joined by ", "), probability, real, calibrated,
strangeness, threshold, answered_by, and one `probability/<class>` column per class. Of an image of which the version's
student is sure the branches are not asked, unless the model is loaded with `model_config={"exact": True}`.

Whoever can send a request to a served model must not make it read files. So a cell is the path of a file only where the
program that loads the model says so: `load_model(..., model_config={"allow_paths": True})`, which no request can.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa

from lorax.data.encoding import from_base64
from lorax.data.images import decode, decode_bytes
from lorax.data.pixels import Pixels
from lorax.errors import ImageError
from lorax.verdicts.predictor import Predictor, Verdict

_COLUMNS = (
    "verdict",
    "generator",
    "one_of",
    "probability",
    "real",
    "calibrated",
    "strangeness",
    "threshold",
    "answered_by",
)
_LONGEST_PATH = 4096
_SHOWN = 40


class LoraxModel(mlflow.pyfunc.PythonModel):
    """MLflow's side of a `Predictor`."""

    def load_context(self, context: Any) -> None:
        """Open the learner state among the version's artifacts; `model_config` as told above.

        Raises:
            BackboneError: the backbone that it names is not here, or has other weights.
        """
        config = context.model_config or {}
        self.predictor = Predictor.open(Path(context.artifacts["state"]), exact=bool(config.get("exact")))
        self.read = _read_path_or_base64 if config.get("allow_paths") else _read_base64

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Judge the images of a one-column DataFrame; returns one with a row for each.

        Raises:
            ImageError: a cell is no image.
        """
        if model_input.shape[1] != 1:
            raise ImageError(
                f"found {model_input.shape[1]} columns {list(model_input.columns)}; expected one, of base64 images."
            )
        cells = [str(cell) for cell in model_input.iloc[:, 0]]
        sources = [f"row {row}" for row in range(len(cells))]
        pixels = [self.read(cell, source) for cell, source in zip(cells, sources, strict=True)]
        verdicts = self.predictor.judge(pixels, sources)
        rows = [_row(verdict) for verdict in verdicts]
        generators = _Names(pa.array([verdict.generator for verdict in verdicts], pa.large_string()))
        return pd.DataFrame(rows, index=model_input.index, columns=self._columns()).assign(generator=generators)

    def _columns(self) -> list[str]:
        labels = [f"probability/{entry.label}" for entry in self.predictor.classes.entries]
        return [*_COLUMNS, *labels]


class _Names(pd.arrays.ArrowStringArray):
    """Texts of which some are missing, and stay so whatever becomes of the column.

    Among plain texts pandas makes NaN of None, which MLflow's server writes though it is no JSON; and MLflow's
    `spark_udf` casts columns of text to `numpy.str_`, which makes the text 'None' of an object's None.
    """

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        if isinstance(dtype, np.dtype) and dtype.kind == "U":
            return np.array([None if name is pd.NA else name for name in self], object)
        return super().astype(dtype, copy)


def _read_path_or_base64(cell: str, source: str) -> Pixels:
    """The pixels of a file if there is one by that name, else of base64."""
    if len(cell) < _LONGEST_PATH and Path(cell).is_file():
        return decode(Path(cell))
    return _read_base64(cell, source)


def _read_base64(cell: str, source: str) -> Pixels:
    """The pixels that a cell's base64, or data: URI, stands for."""
    try:
        data = from_base64(cell.encode(), f"{source} ({cell[:_SHOWN]!r})")
    except ImageError as error:
        raise ImageError(
            f"{error} Paths of files are read only by a model that was loaded with "
            'model_config={"allow_paths": True}.'
        ) from error
    return decode_bytes(data, source)


def _row(verdict: Verdict) -> dict[str, Any]:
    classes = {f"probability/{label}": value for label, value in verdict.probabilities.items()}
    return {name: getattr(verdict, name) for name in _COLUMNS} | {"one_of": ", ".join(verdict.one_of)} | classes


mlflow.models.set_model(LoraxModel())
