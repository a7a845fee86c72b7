"""The configuration in a run's file is checked before it is used: any other shape is named, and nothing is raised."""

import json

import pyarrow.parquet as pq
import pytest

from isoflop.experiments.store.run_config import run_config
from isoflop.experiments.store.store import StoreError, create_store
from tests.support.root import RESULTS

GOOD = {
    "what": {"optim": {"name": "adamw"}, "schedule": {"name": "wsd", "cooldown_fraction": 0.2}},
    "data": {"name": "t", "files": ["*.txt"], "hub": {"name": ""}},
    "study": "s",
    "parent": None,
}


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "runs")


def write(store, config):
    path = store.run_file("a")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(RESULTS / "quick.parquet").slice(0, 1)
    about = {"schema_version": 1, "config": config}
    pq.write_table(table.replace_schema_metadata({"isoflop": json.dumps(about)}), path)


def test_what_training_writes_comes_back(store):
    write(store, GOOD)
    assert run_config(store, "a") == GOOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"what": None}, "what must be an object"),
        ({"what": {"optim": {}}}, "no key 'what.schedule'"),
        ({"what": GOOD["what"] | {"schedule": {"cooldown_fraction": "x"}}}, "what.schedule.cooldown_fraction"),
        ({"what": GOOD["what"] | {"precision": 16}}, "what.precision must be text"),
        ({"data": []}, "data must be an object"),
        ({"data": {"files": "x"}}, "data: 'files' must be a list"),
        ({"data": {"nothing": 1}}, "data: unknown key 'nothing'"),
        ({"data": {"hub": {"max_bytes": "x"}}}, "data: 'hub.max_bytes'"),
        ({"study": 5}, "study must be text"),
        ({"parent": {"run_id": "a"}}, "no key 'parent.folder'"),
    ],
)
def test_another_shape_is_named_with_its_file(store, change, message):
    write(store, GOOD | change)
    with pytest.raises(StoreError) as error:
        run_config(store, "a")
    assert str(store.run_file("a")) in str(error.value)
    assert message.replace("'", "") in str(error.value).replace("'", "")
    assert "train it anew" in str(error.value)


@pytest.mark.parametrize("lost", ["what", "data", "study"])
def test_a_key_that_is_lost_is_named(store, lost):
    write(store, {key: value for key, value in GOOD.items() if key != lost})
    with pytest.raises(StoreError, match=f"no key '{lost}'"):
        run_config(store, "a")
