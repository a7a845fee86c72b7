"""A scoreboard as lines for a reader and as JSON."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from isoflop.scaling.selection.scoreboard import Scoreboard


def scoreboard_dict(board: "Scoreboard") -> dict[str, Any]:
    """JSON-ready, numbers in full precision, what is not a number null."""
    return {
        "preferred": board.preferred,
        "scale": board.origins[0].scale,
        "origins": [
            {"threshold": o.threshold, "n_known": len(o.known), "n_predicted": len(o.target)} for o in board.origins
        ],
        "level": board.level,
        "discrepancy": board.discrepancy,
        "scores": records(board.frame.reset_index()),
        "refused": board.refused,
    }


def scoreboard_text(board: "Scoreboard") -> str:
    """Best first, the preferred law starred, what was refused below with the reason."""
    scale = board.origins[0].scale
    splits = ", ".join(f"{o.threshold:.3g} ({len(o.known)} runs, predicts {len(o.target)})" for o in board.origins)
    lines = [
        f"fitted below a number of {scale}, predicting the next runs above it: {splits}",
        f" {'law':<22} {'error':>7} {'+/-':>6} {'bias':>7} {f'in {board.level:.0%}':>7} {'AICc':>7} {'free':>4} "
        f"{'behind':>7} {'+/-':>6} {'weight':>6}  findings",
    ]
    for row in board.frame.reset_index().itertuples():
        mark = "*" if row.law == board.preferred else " "
        free, aicc = _count(row.free), _count(row.aicc, ".1f")
        lines.append(
            f"{mark}{row.law:<22} {row.error:>7.2%} {row.error_se:>6.2%} {row.bias:>+7.2%} {row.coverage:>7.0%} "
            f"{aicc:>7} {free:>4} {row.behind:>7.2%} {row.behind_se:>6.2%} {_count(row.weight, '.2f'):>6}  "
            f"{row.findings}{_partly(row.origins, len(board.origins))}".rstrip()
        )
    lines += [f" {law}: refused, {why}" for law, why in board.refused.items()]
    lines.append("* preferred: the fewest free parameters within one standard error of the best")
    lines.append(
        "error: mean |ln loss error| on runs not seen; bias: mean ln(loss / predicted); AICc: by clusters, best = 0"
    )
    return "\n".join(lines)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of plain Python values, null for what is not finite."""
    return [{str(k): plain(v) for k, v in row.items()} for row in frame.to_dict("records")]


def plain(value: Any) -> Any:
    """A numpy scalar as Python's, a number that is not finite as None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _count(value: float, how: str = ".0f") -> str:
    return format(value, how) if np.isfinite(value) else "-"


def _partly(scored: int, origins: int) -> str:
    return f"  (no fit at {origins - scored} of {origins} origins)" if scored < origins else ""
