"""Loss by position in the window: what an architecture makes of a longer past (Kaplan et al. 2020, figure 7)."""

from pathlib import Path

import pandas as pd
import torch

from experiments.config import DataSpec, SyntheticSpec
from experiments.corpus import prepare
from experiments.evaluate import loss_by_position
from experiments.trained import find_trained, weights_file
from scaling.runs import final_rows
from scaling.store import Store, StoreError

COLUMNS = ("run_id", "arm", "family", "d_model", "budget", "position", "loss")


def best_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The final row of each arm's best run at each budget, with `budget`: its FLOPs, as asked for or as spent."""
    final = final_rows(table)
    final["budget"] = final["budget_flops"].where(final["budget_flops"].notna(), final["flops"])
    return final.loc[final.groupby(["arm", "budget"])["loss"].idxmin()]


def positions(table: pd.DataFrame, store: Store, corpora: Path) -> pd.DataFrame:
    """COLUMNS, a row per position of each arm's best run at each budget; position 1 is predicted from one token.

    Raises StoreError if none of these runs kept its weights, or if the corpus is no longer what a run was measured on.
    """
    rows = best_runs(table)
    kept = rows[[weights_file(store, run_id).exists() for run_id in rows["run_id"]]]
    if kept.empty:
        raise StoreError(f"{store.root}: none of the {len(rows)} best runs kept its weights; train them again")
    parts = []
    for row in kept.to_dict("records"):
        trained = find_trained(store, row["run_id"])
        data = dict(trained.config["data"])
        corpus = prepare(DataSpec(**data | {"synthetic": SyntheticSpec(**data["synthetic"])}), corpora)
        if corpus.eval_id != row["eval_id"]:
            raise StoreError(
                f"run {row['run_id']} was measured on windows {row['eval_id']}, the corpus at {corpus.folder} now has "
                f"{corpus.eval_id}: its files have changed"
            )
        losses = loss_by_position(trained.model, torch.from_numpy(corpus.eval_windows.astype("int64")))
        said = {name: row[name] for name in COLUMNS[:-2]}
        parts.append(pd.DataFrame({**said, "position": range(1, len(losses) + 1), "loss": losses.tolist()}))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def positions_text(found: pd.DataFrame) -> str:
    """A line per run: the mean loss over positions 1, 2, 3-4, 5-8, ..."""
    upper = found["position"].map(lambda position: 1 << (position - 1).bit_length())
    mean = found.assign(upto=upper).pivot_table(index=["budget", "arm", "d_model"], columns="upto", values="loss")
    head = [f"{upto // 2 + 1}-{upto}" if upto > 2 else str(upto) for upto in mean.columns]
    lines = [f"{'budget':>9}  {'arm':16} {'d':>4} " + "".join(f"{name:>8}" for name in head)]
    for (budget, arm, width), losses in mean.iterrows():
        lines.append(f"{budget:9.2g}  {arm:16} {width:>4} " + "".join(f"{loss:8.3f}" for loss in losses))
    return "\n".join(["nats/token by position in the window", *lines])
