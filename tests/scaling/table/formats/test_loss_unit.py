"""The unit that a table states of its losses is theirs, once, for fit and import alike."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table

N, D = np.meshgrid([1e8, 2e8, 4e8], [2e9, 8e9, 3.2e10])
KNOWN = pd.DataFrame({"n_params": N.ravel(), "tokens": D.ravel(), "loss": np.linspace(4, 3, 9)})


@pytest.fixture
def save(tmp_path):
    def write(frame):
        frame.to_csv(tmp_path / "runs.csv", index=False)
        return tmp_path / "runs.csv"

    return write


def both_readers(path: Path, mapping: dict[str, str] | None = None) -> list[tuple[float, str]]:
    """The first loss of a table and its unit by fit, by import, and by import of what import wrote."""
    table = read_table(path, mapping=mapping)
    made = import_source(path, "auto", ImportOptions(), mapping or {})
    made.write(path.with_name("again.csv"))
    again = read_table(path.with_name("again.csv"))
    third = import_source(path.with_name("again.csv"), "auto", ImportOptions(), {}).table
    return [
        (float(table["loss"].iloc[0]), points(table).loss_unit),
        (float(made.table["loss"].iloc[0]), str(made.table["loss_unit"].iloc[0])),
        (float(again["loss"].iloc[0]), points(again).loss_unit),
        (float(third["loss"].iloc[0]), str(third["loss_unit"].iloc[0])),
    ]


@pytest.mark.parametrize(
    ("name", "stated", "value", "nats", "unit"),
    [
        ("loss", "nats/byte", 0.7, 0.7, "nats/byte"), ("loss", "bits/byte", 1.1, 0.76246, "nats/byte"),
        ("val_loss", "nats per word", 5.0, 5.0, "nats/word"), ("loss", "bits", 4.0, 2.77259, "nats/token"),
        ("loss", "ppl", 20.0, 2.99573, "nats/token"), ("loss", "kilobits a page", 3.0, 3.0, "kilobits a page"),
        ("bpb", "bits/byte", 1.1, 0.76246, "nats/byte"), ("perplexity", "ppl", 20.0, 2.99573, "nats/token"),
        ("loss (nats)", "nats/token", 3.0, 3.0, "nats/token"), ("loss", "", 3.0, 3.0, "nats/token"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mapped", [False, True])
def test_a_unit_that_a_table_states_is_taken_once_by_both_readers(save, name, stated, value, nats, unit, mapped):
    path = save(KNOWN.drop(columns="loss").assign(**{name: value, "loss_unit": stated}))
    for loss, found in both_readers(path, {"loss": name} if mapped else None):
        assert (loss, found) == (pytest.approx(nats, abs=1e-5), unit)


CONTRADICTED = [
    ("bpb", "nats/token"), ("ppl", "nats/token"), ("bpb", "nats/byte"), ("loss (nats)", "bits/byte"),
    ("nats_per_byte", "bits/byte"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "stated"), CONTRADICTED)
def test_a_unit_that_the_name_of_its_column_contradicts_is_refused(save, name, stated):
    path = save(KNOWN.drop(columns="loss").assign(**{name: 1.1, "loss_unit": stated}))
    with pytest.raises(TableError, match=f"by its name, and column loss_unit says {stated}"):
        read_table(path)
    with pytest.raises(SourceError, match=f"by its name, and column loss_unit says {stated}"):
        import_source(path, "auto", ImportOptions(), {})


def test_a_stated_unit_is_not_that_of_another_column_beside_the_loss(save):
    path = save(KNOWN.assign(bpb=1.1, loss_unit="nats/token"))
    assert {unit for _, unit in both_readers(path, {"loss": "bpb"})} == {"nats/byte"}


def test_runs_in_several_units_are_imported_each_in_its_own(save):
    path = save(KNOWN.assign(loss_unit=["nats/token"] + ["nats/byte"] * (len(KNOWN) - 1)))
    made = import_source(path, "auto", ImportOptions(), {}).table
    assert made["loss_unit"].tolist() == ["nats/token"] + ["nats/byte"] * (len(KNOWN) - 1)
    with pytest.raises(TableError, match="the losses are in several units"):
        read_table(path)


def test_bytes_per_token_without_a_loss_per_byte_are_refused(save):
    with pytest.raises(SourceError, match=r"--bytes-per-token 4.2: no run has a loss per byte \(there are nats/token"):
        import_source(save(KNOWN), "auto", ImportOptions(bytes_per_token=4.2), {})
