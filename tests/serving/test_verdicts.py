from __future__ import annotations

import base64
import hashlib
import io
import zipfile

import jsonschema
import numpy as np
import pytest
from PIL import Image

from lorax.data.images import decode_bytes
from lorax.serving import answers
from lorax.serving.model import Served
from lorax.serving.requests import MODEL, TILES, VERDICTS
from tests.serving.conftest import SMALL, Running, image


def test_each_image_gets_the_predictors_verdict_in_order(served: Running, model: Served) -> None:
    images = [image(seed) for seed in range(4)]
    found = answers.Verdicts.model_validate(served.post(*images).json()).results
    expected = model.predictor.judge([decode_bytes(data, "x") for data in images], list("abcd"))
    for i, (one, verdict) in enumerate(zip(found, expected, strict=True)):
        assert isinstance(one, answers.ImageVerdict)
        assert (one.name, one.sha256) == (f"{i}.png", hashlib.sha256(images[i]).hexdigest())
        assert (one.verdict, one.generator, one.crops) == (verdict.verdict, verdict.generator, verdict.crops)
        assert one.one_of == list(verdict.one_of)
        assert one.probabilities == pytest.approx(dict(verdict.probabilities), abs=1e-5)
        assert (one.model.name, one.model.version, one.model.state) == ("tiny", 1, "1" * 64)
        assert (one.model.data.digest, one.model.data.commit) == ("0" * 32, "c0ffee")


def test_base64_gets_the_same_as_multipart(served: Running) -> None:
    data = image(1)
    text = base64.b64encode(data).decode()
    asked = {"images": [{"name": "0.png", "data": text}, {"data": f"data:image/png;base64,{text}"}]}
    first, second = served.http.post(VERDICTS, json=asked).json()["results"]
    assert first["sha256"] == second["sha256"] == hashlib.sha256(data).hexdigest()
    assert first["probability"] == pytest.approx(served.post(data).json()["results"][0]["probability"], abs=1e-5)
    assert (first["name"], second["name"]) == ("0.png", "image 1")


def test_what_follows_an_image_in_its_file_changes_nothing_but_its_hash(served: Running) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("page.html", "<script>alert(1)</script>")
    plain = image(2)
    one, other = served.post(plain, plain + archive.getvalue()).json()["results"]
    assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert one["sha256"] != other["sha256"]


def test_of_an_animation_the_first_frame_counts(served: Running) -> None:
    frames = [Image.fromarray(np.full((20, 24, 3), value, np.uint8)) for value in (10, 200)]
    moving, still = io.BytesIO(), io.BytesIO()
    frames[0].save(moving, "gif", save_all=True, append_images=frames[1:])
    frames[0].save(still, "gif")
    one, other = served.post(moving.getvalue(), still.getvalue()).json()["results"]
    assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_a_large_image_is_looked_at_in_several_places(served: Running) -> None:
    assert served.post(image(size=(40, 40), kind="jpeg")).json()["results"][0]["crops"] == 5


def test_version_says_what_is_served_and_what_a_request_may_bring(served: Running) -> None:
    found = answers.Version.model_validate(served.http.get("/version").json())
    assert (found.name, found.version, found.alias, found.state) == ("tiny", 1, None, "1" * 64)
    assert [(c.label, c.task, c.is_real) for c in found.classes] == [
        ("alpha/real", "alpha", True),
        ("alpha", "alpha", False),
    ]
    assert found.limits.max_images == SMALL.max_images


def test_metrics_count_what_was_asked_and_answered(served: Running) -> None:
    served.post(image(), b"no image")
    served.http.get("/nowhere")
    text = served.http.get("/metrics").text
    for wanted in (
        'lorax_requests_total{code="200",path="/v1/verdicts"}',
        'lorax_requests_total{code="404",path="other"}',
        'lorax_refused_total{code="not_an_image"}',
        'lorax_images_total{verdict="',
        'lorax_model_info{data="00000000000000000000000000000000",model="tiny"',
        'lorax_request_seconds_bucket{le="0.1"}',
        'lorax_batch_images_bucket{le="1.0"}',
    ):
        assert wanted in text
    assert served.metric("lorax_images_waiting") == 0
    assert served.metric("lorax_upload_bytes") == 0


def test_the_openapi_page_needs_no_other_server_and_describes_every_answer(served: Running) -> None:
    page = served.http.get("/docs").text
    assert "https://" not in page
    script = page.split('<script src="')[1].split('"')[0]
    assert served.http.get(script).status_code == 200
    described = served.http.get("/openapi.json").json()
    assert set(described["paths"]) == {VERDICTS, TILES, MODEL, "/health", "/version", "/metrics"}
    post = described["paths"][VERDICTS]["post"]
    assert set(post["responses"]) >= {"200", "400", "413", "415", "422", "503"}
    example = post["requestBody"]["content"]["application/json"]["example"]
    assert served.http.post(VERDICTS, json=example).status_code == 200


def test_a_request_without_images_fits_no_schema_and_is_refused(served: Running) -> None:
    post = served.http.get("/openapi.json").json()["paths"][VERDICTS]["post"]
    for kind, described in post["requestBody"]["content"].items():
        for empty in ({}, {"images": []}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(empty, described["schema"])
        body = b"--b--\r\n" if "form" in kind else b'{"images": []}'
        answer = served.http.post(VERDICTS, content=body, headers={"content-type": f"{kind}; boundary=b"})
        assert answer.status_code == 400, kind
