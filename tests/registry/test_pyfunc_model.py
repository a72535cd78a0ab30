from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.pyfunc.scoring_server import predictions_to_json
from PIL import Image

from lorax.errors import BackboneError, ImageError
from lorax.registry import Registry
from lorax.stream import ClassTable
from lorax.verdicts import predictor
from lorax.verdicts.predictor import TOO_LITTLE, Predictor, Verdict, decide
from tests.mlflow_server import Server
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(server: Server, filled: Registry) -> Any:
    mlflow.set_tracking_uri(server.uri)
    return mlflow.pyfunc.load_model(f"models:/{filled.name}@champion")


@pytest.fixture(scope="module")
def model_of_paths(server: Server, filled: Registry) -> Any:
    mlflow.set_tracking_uri(server.uri)
    return mlflow.pyfunc.load_model(f"models:/{filled.name}@champion", model_config={"allow_paths": True})


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def files(stream: list[Learned]) -> list[Path]:
    return [path for episode in stream for path in list(episode.files.values())[:2]]


def test_paths_and_base64_get_the_same_verdicts_as_the_predictor(
    model: Any, model_of_paths: Any, files: list[Path], stream: list[Learned]
) -> None:
    expected = Predictor.open(stream[-1].state_dir).predict(files)
    from_paths = model_of_paths.predict(pd.DataFrame({"image": [str(path) for path in files]}))
    from_bytes = model.predict(pd.DataFrame({"whatever": [encoded(path) for path in files]}))
    pd.testing.assert_frame_equal(from_paths, from_bytes)
    assert list(from_paths["verdict"]) == [v.verdict for v in expected]
    assert list(from_paths["probability"]) == pytest.approx([v.probability for v in expected])
    classes = [f"probability/{name}" for task in ("alpha", "beta", "gamma") for name in (f"{task}/real", task)]
    reasons = ["probability", "real", "calibrated", "strangeness", "threshold", "answered_by"]
    assert list(from_paths.columns) == ["verdict", "generator", "one_of", *reasons, *classes]
    for name in reasons:
        assert [None if pd.isna(x) else x for x in from_paths[name]] == pytest.approx(
            [getattr(v, name) for v in expected]
        )
    assert from_paths[classes].sum(axis=1).tolist() == pytest.approx([1.0] * len(files))


def test_a_data_uri_is_read_too_and_the_index_is_kept(model: Any, files: list[Path]) -> None:
    cell = f"data:image/png;base64,{encoded(files[0])}"
    found = model.predict(pd.DataFrame({"image": [cell]}, index=[7]))
    assert list(found.index) == [7]


def test_a_cell_that_is_no_image_is_named_by_its_row(model: Any, files: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"row 1 \('missing.png'\) is not base64"):
        model.predict(pd.DataFrame({"image": [encoded(files[0]), "missing.png"]}))
    with pytest.raises(ImageError, match="row 0 can't be decoded"):
        model.predict(pd.DataFrame({"image": [base64.b64encode(b"no image").decode()]}))


def test_the_answer_is_json_with_null_where_there_is_no_generator(
    model: Any, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_is_real(source: str, probabilities: torch.Tensor, classes: ClassTable, **more: Any) -> Verdict:
        """Such a small learner may call all images the same."""
        real = torch.tensor([float(entry.is_real) for entry in classes.entries])
        return decide(source, real / real.sum() if source == "row 0" else probabilities, classes, **more)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    monkeypatch.setattr(predictor, "decide", first_is_real)
    answer = model.predict(pd.DataFrame({"image": [encoded(path) for path in files]}))
    text = io.StringIO()
    predictions_to_json(answer, text)
    rows = json.loads(text.getvalue(), parse_constant=refuse)["predictions"]
    named = [row["verdict"].removeprefix("synthetic:") for row in rows]
    expected = [None if name in ("real", "unknown", "undecided") else name for name in named]
    assert [row["generator"] for row in rows] == expected
    assert None in expected


def test_no_generator_is_no_text_where_spark_asks_for_text(model: Any, files: list[Path]) -> None:
    grey = io.BytesIO()
    Image.new("RGB", (9, 9), "grey").save(grey, "png")
    cells = [base64.b64encode(grey.getvalue()).decode(), encoded(files[1])]
    answer = pd.DataFrame(model.predict(pd.DataFrame({"image": cells})))
    cast = answer["generator"].astype(np.str_)  # as mlflow.pyfunc.spark_udf does
    assert cast[0] is None
    assert list(answer["generator"].isna()) == [True, cast[1] is None]
    assert answer["verdict"][0] == TOO_LITTLE


def test_no_request_makes_a_model_read_a_file(model: Any, files: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"not base64: .*allow_paths"):
        model.predict(pd.DataFrame({"image": [str(files[0])]}))


def test_the_signature_names_every_column_of_the_answer(model: Any, files: list[Path]) -> None:
    answer = model.predict(pd.DataFrame({"image": [encoded(files[0])]}))
    assert model.metadata.signature.outputs.input_names() == list(answer.columns)


def test_the_model_needs_this_package_by_name_and_holds_no_pickle_and_no_backbone(
    server: Server, filled: Registry, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(server.uri)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{filled.name}/3", dst_path=str(tmp_path)))
    requirements = (folder / "requirements.txt").read_text().split()
    assert [r for r in requirements if r.startswith("lorax-pipeline==")]
    assert not any("://" in r or "@" in r for r in requirements)
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    weights = [path.name for path in folder.rglob("*.safetensors")]
    assert sorted(weights) == ["adapter_model.safetensors"] * 3 + ["calibration.safetensors", "head.safetensors"]


def test_what_mlflow_keeps_of_a_version_names_no_place_of_this_machine(
    server: Server, filled: Registry, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(server.uri)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{filled.name}/3", dst_path=str(tmp_path)))
    told = [path for path in folder.rglob("*") if path.suffix in ("", ".txt", ".yaml", ".md", ".py") and path.is_file()]
    homes = [Path(__file__).parents[2], Path(tempfile.gettempdir()), Path.home()]
    assert [(path.name, home) for path in told for home in homes if f"{home}/" in path.read_text()] == []


def test_the_request_that_mlflows_page_shows_has_something_to_see(model: Any) -> None:
    example = model.input_example
    assert example.shape == (1, 1)
    assert model.predict(example)["verdict"][0] != TOO_LITTLE


def test_mlflow_shows_a_versions_figures_with_its_model_once(server: Server, filled: Registry) -> None:
    client = mlflow.MlflowClient(server.uri)
    found = client.get_model_version(filled.name, "3")
    model_id = found.source.removeprefix("models:/")
    shown = {point.key: point.value for point in client.get_logged_model(model_id).metrics}
    assert shown == pytest.approx(filled.version(3).metrics | shown)
    assert {"average_accuracy", "accuracy/alpha", "accuracy/gamma"} <= set(shown)
    assert not [key for key in shown if key.startswith(("training/", "seconds/"))]
    for key in shown:
        assert len(client.get_metric_history(found.run_id, key)) == 1


def test_mlflow_evaluates_a_version_by_its_address(
    server: Server, filled: Registry, files: list[Path], stream: list[Learned]
) -> None:
    mlflow.set_tracking_uri(server.uri)
    mlflow.set_experiment(f"{filled.name}-evaluated")
    expected = Predictor.open(stream[-1].state_dir).predict(files)
    labels = ["another", *(verdict.verdict for verdict in expected[1:])]
    data = pd.DataFrame({"image": [encoded(path) for path in files], "label": labels})
    right = mlflow.models.make_metric(
        eval_fn=lambda predictions, targets: (predictions == targets).mean(), greater_is_better=True, name="right"
    )
    for address in (f"models:/{filled.name}@champion", f"runs:/{filled.version(3).run_id}/{filled.name}"):
        found = mlflow.models.evaluate(address, data, targets="label", predictions="verdict", extra_metrics=[right])
        assert found.metrics["right"] == pytest.approx(1 - 1 / len(files))


def test_a_version_whose_backbone_is_not_here_says_so(
    server: Server, filled: Registry, params: Any, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(server.uri)
    weights = Path(params.backbone.weights)
    moved = Path(shutil.move(weights, tmp_path))
    try:
        with pytest.raises(BackboneError, match=r"tiny.safetensors"):
            mlflow.pyfunc.load_model(f"models:/{filled.name}@champion")
    finally:
        shutil.move(moved, weights)
