"""Loss by position in the window: what an architecture gains from a longer past (Kaplan et al. 2020, figure 7)."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from isoflop.experiments.files import write_text
from isoflop.experiments.finished.remeasure import evaluation_of
from isoflop.experiments.store.models import evaluation_file, find_trained, weights_file
from isoflop.experiments.store.store import Store, StoreError
from isoflop.scaling.table.runs import final_rows, write_parquet

COLUMNS = ("run_id", "arm", "family", "d_model", "budget", "position", "loss")


def best_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The final row of each arm's best run at each budget, with `budget`: its FLOPs, requested or else spent."""
    final = final_rows(table)
    final["budget"] = final["budget_flops"].where(final["budget_flops"].notna(), final["flops"])
    return final.loc[final.groupby(["arm", "budget"])["loss"].idxmin()]


def positions(table: pd.DataFrame, store: Store, corpora: Path) -> pd.DataFrame:
    """COLUMNS, a row per position of each arm's best run at each budget; position 1 is predicted from one token.

    Raises StoreError if none of these runs kept its evaluation or its weights, or if the corpus is no longer what a run
    was measured on.
    """
    rows = best_runs(table)
    has = [evaluation_file(store, run).exists() or weights_file(store, run).exists() for run in rows["run_id"]]
    if not any(has):
        raise StoreError(f"{store.root}: none of the {len(rows)} best runs kept its weights; train them again")
    parts = []
    for row in rows[has].to_dict("records"):
        found = evaluation_of(find_trained(store, row["run_id"]), corpora)
        found = found[found["measure"] == "position"].rename(columns={"number": "position"})
        parts.append(found.assign(**{name: row[name] for name in COLUMNS[:-2]}))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def write_positions(found: pd.DataFrame, path: Path) -> None:
    """Write every position to a .parquet or a .csv, as a whole."""
    if path.suffix == ".parquet":
        write_parquet(path, pa.Table.from_pandas(found, preserve_index=False))
    else:
        write_text(path, found.to_csv(index=False))


def positions_text(found: pd.DataFrame) -> str:
    """A line per run: the mean loss over positions 1, 2, 3-4, 5-8, ..."""
    upper = found["position"].map(lambda position: 1 << (position - 1).bit_length())
    mean = found.assign(upto=upper).pivot_table(index=["budget", "arm", "d_model"], columns="upto", values="loss")
    head = [f"{upto // 2 + 1}-{upto}" if upto > 2 else str(upto) for upto in mean.columns]
    lines = [f"{'budget':>9}  {'arm':16} {'d':>4} " + "".join(f"{name:>8}" for name in head)]
    for (budget, arm, width), losses in mean.iterrows():
        lines.append(f"{budget:9.2g}  {arm:16} {width:>4} " + "".join(f"{loss:8.3f}" for loss in losses))
    return "\n".join(["nats/token by position in the window", *lines])
