"""A learner state as an MLflow model: code by name, the state as artifacts, no pickle and no backbone weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lorax
from lorax.data.encoding import example_base64
from lorax.drafts import scratch
from lorax.errors import RegistryError, StateError
from lorax.registry.client import sent_once
from lorax.stream import ClassTable

_STATE_ARTIFACT = "artifacts/state"
"""Where the learner state lies inside the MLflow model."""

CARD = "model_card.md"
"""The model card's name, in the MLflow model and in the episode's run."""

_ABOUT_THE_RUN = ("training/", "seconds/")
"""How metrics begin that say nothing of the model."""

_MODEL_SCHEME = "models:/"
_READY = "READY"
_DISTRIBUTION = "lorax-pipeline"


def logged_model(client: Any, run: Any, name: str, state_dir: Path, classes: ClassTable, card: str) -> Any:
    """The MLflow model that holds this state, uploaded if need be.

    Args:
        client: MLflow's client.
        run: the episode's run; it has one such model.
        name: the model's name.
        state_dir: the learner state's directory.
        classes: the state's class table.
        card: the model card, which lies beside it.
    """
    whole = _whole_model(client, run.info.experiment_id, run.info.run_id)
    return whole or _upload(client, run, name, state_dir, classes, card)


def attach_model(client: Any, run_id: str, model: Any) -> None:
    """List a model as an episode's output, and have MLflow show the figures of the episode's run with it, too."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    if model.model_id not in {o.model_id for o in (run.outputs.model_outputs if run.outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    _show_metrics(client, run, model)


def _show_metrics(client: Any, run: Any, model: Any) -> None:
    """MLflow knows a point that is written again as it is, time and all, so the run has none twice."""
    from mlflow.entities import Metric

    shown = {(point.key, point.value, point.step) for point in model.metrics or ()}
    newest = run.data.to_proto().metrics  # with time and step, which a history of each would tell, too
    points = [point for point in newest if not point.key.startswith(_ABOUT_THE_RUN)]
    missing = [point for point in points if (point.key, point.value, point.step) not in shown]
    if missing:
        metrics = [Metric(p.key, p.value, p.timestamp, p.step, model_id=model.model_id) for p in missing]
        client.log_batch(run.info.run_id, metrics=metrics)


def model_address(model_id: str) -> str:
    """What a model version is made from."""
    return f"{_MODEL_SCHEME}{model_id}"


def replace_card(client: Any, name: str, version: int, card: str) -> None:
    """Put another model card and its run's newest figures beside a model version's learner state, which stays."""
    found = client.get_model_version(name, str(version))
    model_id = _model_id(client, found)
    with scratch() as folder:
        (folder / CARD).write_text(card)
        client.log_model_artifacts(model_id, str(folder))
    _show_metrics(client, client.get_run(found.run_id), client.get_logged_model(model_id))


def fetch_state(client: Any, uri: str, name: str, version: int, directory: Path) -> None:
    """Download the learner state of a model version into `directory`, which exists and is empty."""
    from mlflow.artifacts import download_artifacts

    location = client.get_model_version_download_uri(name, str(version))
    fetched = directory / "fetched"
    fetched.mkdir()
    local = download_artifacts(f"{location}/{_STATE_ARTIFACT}", dst_path=str(fetched), tracking_uri=uri)
    for path in Path(local).iterdir():
        path.rename(directory / path.name)
    shutil.rmtree(fetched)


def fetch_card(client: Any, uri: str, name: str, version: int) -> str:
    """The model card of a model version, Markdown."""
    from mlflow.artifacts import download_artifacts

    location = client.get_model_version_download_uri(name, str(version))
    with scratch() as folder:
        return Path(download_artifacts(f"{location}/{CARD}", dst_path=str(folder), tracking_uri=uri)).read_text()


def stored_bytes(client: Any, name: str, version: int) -> int:
    """The size of all files of the MLflow model below a model version."""
    model_id = _model_id(client, client.get_model_version(name, str(version)))
    total, folders = 0, [None]
    while folders:
        for found in client.list_logged_model_artifacts(model_id, folders.pop()):
            if found.is_dir:
                folders.append(found.path)
            else:
                total += found.file_size or 0
    return total


def delete_model(client: Any, name: str, version: int) -> None:
    """Delete a model version, and the MLflow model below it unless copies need it; `mlflow gc` frees its room."""
    model_id = _model_id(client, client.get_model_version(name, str(version)))
    is_shared = bool(copies(client, name, version))
    client.delete_model_version(name, str(version))
    if not is_shared:
        client.delete_logged_model(model_id)


def copies(client: Any, name: str, version: int) -> list[str]:
    """Other versions over the same MLflow model, as MLflow's `copy_model_version` makes them: "model, version 3"."""
    run_id = client.get_model_version(name, str(version)).run_id
    found = client.search_model_versions(f"run_id = '{run_id}'")
    return [f"{v.name}, version {v.version}" for v in found if (v.name, int(v.version)) != (name, version)]


def _model_id(client: Any, found: Any) -> str:
    """The MLflow model below one of MLflow's versions; a copy names another version, which may be gone, instead."""
    source = str(found.source).removeprefix(_MODEL_SCHEME)
    if "/" not in source:
        return source
    experiment = client.get_run(found.run_id).info.experiment_id
    whole = [model for model in _models_of(client, experiment, found.run_id) if model.status == _READY]
    if not whole:
        raise RegistryError(
            f"version {found.version} of {found.name!r} was copied from {source!r}, whose MLflow model was deleted."
        )
    return str(whole[0].model_id)


def is_whole(directory: Path, digest: str) -> bool:
    """Whether `directory` holds the learner state `digest`, every file as it was."""
    from lorax.learning.state_files import load_state, state_digest

    try:
        load_state(directory)
        return state_digest(directory) == digest
    except StateError:
        return False


def _whole_model(client: Any, experiment: str, run_id: str) -> Any:
    """The run's model if its upload was finished; what an upload that was cut off left behind is deleted."""
    whole = None
    for model in _models_of(client, experiment, run_id):
        if model.status == _READY:
            whole = model
        else:
            client.delete_logged_model(model.model_id)
    return whole


def _models_of(client: Any, experiment: str, run_id: str) -> list[Any]:
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))


def _upload(client: Any, run: Any, name: str, state_dir: Path, classes: ClassTable, card: str) -> Any:
    experiment, run_id = run.info.experiment_id, run.info.run_id
    with sent_once():
        model = client.create_logged_model(experiment, name=name, source_run_id=run_id, model_type="lorax")
    with scratch() as folder:
        directory = folder / "model"
        _save(directory, run_id, str(model.model_id), state_dir, classes)
        (directory / CARD).write_text(card)
        client.log_model_artifacts(model.model_id, str(directory))
    return client.finalize_logged_model(model.model_id, _READY)


def _save(directory: Path, run_id: str, model_id: str, state_dir: Path, classes: ClassTable) -> None:
    """Write the MLflow model's directory."""
    import mlflow.pyfunc
    from mlflow.models import Model

    staged, model = directory.parent / "state", Model(run_id=run_id, model_uuid=model_id, model_id=model_id)
    shutil.copytree(state_dir, staged)  # MLflow takes a path for a URL, and so no folder with a % or # in its name
    mlflow.pyfunc.save_model(
        path=str(directory),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"state": str(staged)},
        model_config={"allow_paths": False, "exact": False},  # what may be set later is named here
        signature=_signature(classes),
        input_example=_example(),
        pip_requirements=[f"{_DISTRIBUTION}=={lorax.__version__}"],
        mlflow_model=model,
    )
    _forget_places(model, directory / "MLmodel")
    for cache in directory.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)


def _forget_places(model: Any, path: Path) -> None:
    """Take the paths of this machine out of MLmodel; MLflow loads the model by the names inside its folder."""
    flavour = model.flavors["python_function"]
    flavour["model_code_path"] = Path(flavour["model_code_path"]).name
    for artifact in flavour["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(path))


def _signature(classes: ClassTable) -> Any:
    """One nameless text column in; a verdict and a probability for each class out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    texts = [ColSpec("string", "verdict"), ColSpec("string", "generator", required=False)]
    texts.append(ColSpec("string", "one_of"))
    numbers = [ColSpec("double", "probability"), ColSpec("double", "real"), ColSpec("boolean", "calibrated")]
    numbers += [ColSpec("double", name, required=False) for name in ("strangeness", "threshold")]
    by = ColSpec("string", "answered_by")
    classwise = [ColSpec("double", f"probability/{entry.label}") for entry in classes.entries]
    outputs = Schema([*texts, *numbers, by, *classwise])
    return ModelSignature(inputs=Schema([ColSpec("string")]), outputs=outputs)


def _example() -> Any:
    """What MLflow's page shows as a request."""
    import pandas as pd

    return pd.DataFrame({"image": [example_base64()]})
