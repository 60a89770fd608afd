"""NVIDIA's own client of the Open Inference Protocol against the service: what works with Triton works here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from churn.domain.schema import FEATURE_NAMES
from serving.app import create_app
from tests.models import calibrated_forest, random_vectors
from tests.serving.conftest import Site, serving
from tests.serving.test_scoring import expected_probability

MODEL = "churn_prediction"


@pytest.fixture
def triton(served: Site) -> Iterator[InferenceServerClient]:
    with (
        serving(create_app(served.parts)) as address,
        InferenceServerClient(address.removeprefix("http://")) as client,
    ):
        yield client


def tensor(name: str, values: Any, datatype: str, *, binary: bool) -> InferInput:
    return InferInput(name, list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)


def test_the_server_and_the_model_are_live_ready_and_described(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(MODEL)
    assert triton.is_model_ready(MODEL, "1")
    assert not triton.is_model_ready(MODEL, "2")
    assert not triton.is_model_ready("another")
    assert triton.get_server_metadata() == {"name": "churn", "version": "2", "extensions": ["binary_tensor_data"]}
    described = triton.get_model_metadata(MODEL)
    assert (described["name"], described["versions"]) == (MODEL, ["1"])
    assert described["inputs"][0] == {"name": "user_id", "datatype": "INT64", "shape": [-1]}
    assert described["inputs"][1] == {"name": "features", "datatype": "FP64", "shape": [-1, len(FEATURE_NAMES)]}
    assert [each["name"] for each in described["inputs"][2:]] == list(FEATURE_NAMES)
    assert [each["name"] for each in described["outputs"]] == [
        "churn_probability",
        "status",
        "scored_rows",
        "scored_probability",
    ]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_users_are_scored(binary: bool, shape: tuple[int, ...], served: Site, triton: InferenceServerClient) -> None:
    users = np.array([7, 8, 7], dtype=np.int64).reshape(shape)
    result = triton.infer(MODEL, [tensor("user_id", users, "INT64", binary=binary)], request_id="42")
    expected = [expected_probability(served, user) for user in (7, 8, 7)]
    assert result.as_numpy("churn_probability").tolist() == expected
    assert result.as_numpy("status").tolist() == ["ok", "ok", "ok"]
    assert result.get_response()["id"] == "42"
    assert [(record["user_id"], record["source"]) for record in served.log()] == [(7, "id"), (8, "id"), (7, "id")]


@pytest.mark.parametrize("binary", [True, False])
def test_named_users_are_scored_where_ids_are_strings(binary: bool, served: Site) -> None:
    from dataclasses import replace

    app = create_app(replace(served.parts, user_id_type="string"))
    with serving(app) as address, InferenceServerClient(address.removeprefix("http://")) as client:
        users = np.array(["u7", "u8"], dtype=np.object_)
        result = client.infer(MODEL, [tensor("user_id", users, "BYTES", binary=binary)])
        assert client.get_model_metadata(MODEL)["inputs"][0]["datatype"] == "BYTES"
    assert result.as_numpy("churn_probability").tolist() == [expected_probability(served, user) for user in (7, 8)]


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_a_matrix_of_features_is_scored_with_nan_for_null(datatype: str, triton: InferenceServerClient) -> None:
    vectors = random_vectors(5, seed=3).astype(np.float64 if datatype == "FP64" else np.float32)
    vectors[0, FEATURE_NAMES.index("avg_order_value")] = np.nan
    result = triton.infer(MODEL, [tensor("features", vectors, datatype, binary=True)], model_version="1")
    expected = calibrated_forest().predict_proba(vectors.astype(np.float64))[:, 1]
    assert result.as_numpy("churn_probability").tolist() == expected.tolist()


def test_features_are_scored_by_name_in_any_order(served: Site, triton: InferenceServerClient) -> None:
    columns = dict(zip(FEATURE_NAMES, random_vectors(4, seed=5).T, strict=True))
    given = [tensor(name, columns[name].copy(), "FP64", binary=True) for name in reversed(FEATURE_NAMES)]
    result = triton.infer(MODEL, given)
    expected = calibrated_forest().predict_proba(random_vectors(4, seed=5))[:, 1]
    assert result.as_numpy("churn_probability").tolist() == expected.tolist()
    assert {record["source"] for record in served.log()} == {"vector"}


def test_a_row_without_a_probability_never_gets_a_number(served: Site, triton: InferenceServerClient) -> None:
    users = [tensor("user_id", np.array([7, 999, 8], dtype=np.int64), "INT64", binary=True)]
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(MODEL, users)
    assert refused.value.status() == "422"
    assert refused.value.message() == ("row 1 is not_found; ask for status, scored_rows and scored_probability instead")
    names = ["status", "scored_rows", "scored_probability"]
    result = triton.infer(MODEL, users, outputs=[InferRequestedOutput(name) for name in names])
    assert result.as_numpy("status").tolist() == ["ok", "not_found", "ok"]
    assert result.as_numpy("scored_rows").tolist() == [0, 2]
    assert result.as_numpy("scored_probability").tolist() == [expected_probability(served, user) for user in (7, 8)]
    assert result.as_numpy("churn_probability") is None
    assert [record["status"] for record in served.log()] == ["ok", "not_found", "ok"] * 2


def test_another_version_or_model_is_refused(triton: InferenceServerClient) -> None:
    users = [tensor("user_id", np.array([7], dtype=np.int64), "INT64", binary=False)]
    for model, version in ((MODEL, "2"), ("another", "")):
        with pytest.raises(InferenceServerException) as refused:
            triton.infer(model, users, model_version=version)
        assert refused.value.status() == "404"
        assert refused.value.message() == "There is no such model, or not in this version"
