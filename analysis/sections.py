"""The report in words: Markdown sections made from the evidence, or the reason why there is none."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import pandas as pd

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figures.runs.cost import trained_tokens
from isoflop.analysis.law_tables import laws, parameters
from isoflop.analysis.markdown import or_none, pair, table
from isoflop.analysis.style import LEVEL, count, is_known
from isoflop.printable import loss_text
from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit, noise_text
from isoflop.scaling.laws.special_functions import chdtri
from isoflop.scaling.selection.holdout import HeldOutForecast, HoldOut
from isoflop.scaling.selection.rolling_origins import BASELINE
from isoflop.scaling.selection.scoreboard import AVERAGE, Scoreboard
from isoflop.scaling.table.conventions import COMPUTE, PARAMS
from isoflop.scaling.table.runs import final_rows, is_forecast, is_runs

MOST_CELLS = 120  # rows of the table of cells in the report; the csv has all
FAR = 2.0  # times the preferred law's error: a law that nobody would use here
_NAMES = {BASELINE: "local slope (no law)", AVERAGE: "forecast average"}
_SEVERITY = {"fail": "FAIL", "warn": "warning", "info": "note"}


def sections(e: Evidence) -> str:
    """All sections of the report but the figures."""
    parts: Sequence[tuple[str, Callable[[Evidence], str]]] = (
        ("", verdict), ("Findings", findings), ("Held out", held_out), ("Scoreboard", scoreboard), ("Laws", laws),
        ("Parameters", parameters), ("Conventions", conventions),
        ("Three approaches", three_approaches), ("Noise", noise),
    )  # fmt: skip
    return "\n\n".join(section(e, title, write) for title, write in parts)


def title(e: Evidence) -> str:
    """What the report is of: the study where one was named, else the file or folder."""
    study = e.table.attrs.get("study")
    return f"Scaling laws of study {study}" if study else f"Scaling laws of {e.table.attrs.get('source', 'the table')}"


def section(e: Evidence, title: str, write: Callable[[Evidence], str]) -> str:
    """One section under its heading; the reason in its place if the table cannot support it."""
    try:
        body = write(e)
    except ValueError as error:
        body = f"Not available: {error}."
    return f"## {title}\n\n{body}" if title else body


def verdict(e: Evidence) -> str:
    """The law, how it splits compute, what it was fitted to and how."""
    fit, draws = e.fit, e.draws
    frame = fit.points.frame
    lines = [
        f"**{formula(fit)}** ({fit.points.loss_unit}).{_allocation(e) if 'a' in fit.exponents() else ''}",
        f"Law `{e.law_name}` ({_chosen(e)}); {fit.objective}, delta {fit.delta:.3g}; {len(frame)} runs in "
        f"{fit.n_clusters} clusters by {fit.points.cluster}; N counts {_meaning(PARAMS, fit.points.params)}; C counts "
        f"{_meaning(COMPUTE, fit.points.compute)}. Brackets are {LEVEL:.0%} intervals ({draws.kind} by {draws.by}).",
        f"Fitted range: {count(frame['n_params'].min())} to {count(frame['n_params'].max())} parameters, "
        f"{count(frame['tokens'].min())} to {count(frame['tokens'].max())} tokens, {frame['flops'].min():.2g} to "
        f"{frame['flops'].max():.2g} FLOPs. {irreducible(e)}",
    ]
    return "\n\n".join(lines)


def _allocation(e: Evidence) -> str:
    """How compute is best split, or why these runs cannot say it."""
    try:
        exponents = e.optimum.exponents()
    except UnsupportedError as error:
        return f" How to split compute is not known: {error}."
    if e.fit.problem.tied:
        return f" Its exponents are tied: by its form the best model size grows as C^{exponents['a']:.3f}."
    for name in ("a", "b"):
        low, high = e.draws.interval(name, LEVEL)
        if not is_known(low, high):
            return f" How to split compute is not known: {name} may be anything from {low:.2g} to {high:.2g}."
    a, b = (f"{exponents[n]:.3f} {_span(e.draws, n)}" for n in ("a", "b"))
    return f" By this law the best model size grows as C^{a} and the best number of tokens as C^{b}."


def formula(fit: Fit) -> str:
    """The fitted law with its numbers, in ASCII."""
    return fit.law.written()


def irreducible(e: Evidence) -> str:
    """The irreducible loss: estimate and interval, with the true one where the corpus has a known one."""
    law, name = e.fit.law, e.fit.law.floor_name
    if name is None:
        return ""
    try:
        known = f" The corpus has an exact floor of {loss_text(e.loss_floor)}."
    except UnsupportedError:
        known = ""
    if name not in e.fit.free:
        return f"{name} is fixed at {law.irreducible:.4g}.{known}"
    if name in e.fit.bounds_hit:
        return f"**{name} is at its bound, {law.irreducible:.4g}: these runs do not identify it.**{known}"
    low, high = e.draws.interval(name)
    floor = f"{name} = {loss_text(law.irreducible)} {pair(low, high)}"
    if low <= 0 or any(f.message.startswith(f"{name} is not identified") for f in e.findings):
        return f"**{name} is not identified by these runs** ({floor}).{known}"
    inside = ""
    if known:
        inside = (
            " inside the interval of the fit" if low <= e.loss_floor <= high else " OUTSIDE the interval of the fit"
        )
        known = known.rstrip(".") + "," + inside + "."
    return f"Irreducible loss {floor}.{known}"


def findings(e: Evidence) -> str:
    """What a reviewer would object to, worst first."""
    if not e.findings:
        return "None: no check objects to this fit."
    return "\n".join(
        f"- **{_SEVERITY[f.severity]}** `{f.code}`: {f.message}. {_capital(f.remedy)}." for f in e.findings
    )


def _of_runs(forecast: HeldOutForecast) -> list[str]:
    """The cells of a law that are of the runs held out: their number, rms and coverage."""
    return [f"{len(forecast.cells)}", f"{forecast.rms_error:.2%}", f"{forecast.coverage:.0%}"]


def held_out(e: Evidence) -> str:
    """Every law's prediction of the budgets it was not fitted to."""
    test: HoldOut = e.held_out
    rows = []
    for name, forecast in test.forecasts.items():
        mark = f"**{name}**" if name == e.law_name else name
        for b in forecast.budgets.itertuples():
            rows.append([
                mark, f"{b.flops:.3g}", or_none(b.predicted_loss, loss_text), or_none(b.loss_opt, loss_text),
                or_none(b.loss_error, "{:+.2%}".format), loss_text(b.best_run_loss),
                or_none(b.best_run_error, "{:+.2%}".format), or_none(b.n_ratio, "{:.2f}".format), *_of_runs(forecast),
            ])  # fmt: skip
        if forecast.budgets.empty:
            rows.append([mark, "no common budget", "", "", "", "", "", "", *_of_runs(forecast)])
    head = [
        "law", "budget", "predicted L*", "measured L*", "error", "best run", "error", "N* predicted / measured",
        "runs", "rms of runs", "runs in 90% interval",
    ]  # fmt: skip
    text = (
        f"Fitted up to {test.threshold:.3g} FLOPs, then compared with the runs above. Errors are predicted / measured "
        "- 1: above 0 the law was too high.\n\n"
    )
    if test.chosen:
        same = "names the same law" if test.chosen == e.law_name else "would have named another law"
        text += f"In bold the law of this report. Without these runs the rule of the scoreboard {same}.\n\n"
    failed = "".join(f"\n- {name}: {why}" for name, why in test.failed.items())
    return text + table(head, rows) + ("\n" + failed if failed else "")


def scoreboard(e: Evidence) -> str:
    """What to use, and every law's error on the next scale, at every scale; the laws refused."""
    return "\n\n".join(filter(None, (scoreboard_close(e), scoreboard_far(e))))


def scoreboard_close(e: Evidence) -> str:
    """What to use, how that was found, and the laws of which one may be used, the preferred first."""
    board = e.scoreboard
    cuts = ", ".join(f"{o.threshold:.3g} ({len(o.target)} runs)" for o in board.origins)
    how = (
        f"Fitted below a number of {board.origins[0].scale}, predicting the next runs above it: {cuts}. An "
        "origin counts by the square of the runs known there. Errors are ln(predicted / measured), `too high by` is "
        "their mean. Preferred is the law with the fewest free parameters within one standard error of the best law."
    )
    return "\n\n".join([_advice(e), how, _board(e, [law for law in _in_order(board) if not _is_far(board, law)])])


def scoreboard_far(e: Evidence) -> str:
    """The laws that nobody would use here, and those refused with their reason; "" where there are none."""
    board = e.scoreboard
    far = [law for law in _in_order(board) if _is_far(board, law)]
    refused = "\n".join(f"- {law}: refused, {why}" for law, why in board.refused.items())
    rows = f"Missed by more than twice as much:\n\n{_board(e, far)}" if far else ""
    return "\n\n".join(filter(None, (rows, refused)))


def _advice(e: Evidence) -> str:
    """One paragraph: which law, what stands beside it, and with what to forecast."""
    board, frame = e.scoreboard, e.scoreboard.frame
    errors = frame["error"]
    named = f"**Use `{board.preferred}`**"
    if board.preferred != e.law_name:
        named = f"This report is of `{e.law_name}`, as requested; **the scoreboard prefers `{board.preferred}`**"
    sentences = [f"{named}: it missed the next runs by {errors[board.preferred]:.2%} of the loss."]
    best = errors[list(board.entrants)].idxmin()
    limit = errors[best] + frame.loc[best, "error_se"]
    close = [f"`{law}`" for law in _in_order(board)[1:] if law in board.entrants and errors[law] <= limit]
    if close:
        sentences.append(f"These runs do not distinguish it from: {', '.join(close)}.")
    if errors.get(AVERAGE, math.inf) <= errors[board.preferred]:
        sentences.append(f"To forecast a loss take the average of the laws, `isoflop predict`: it missed by "
                    f"{errors[AVERAGE]:.2%}.")  # fmt: skip
    if errors.get(BASELINE, math.inf) < errors[board.preferred]:
        sentences.append(
            f"No law did as well as going on at the last slope ({errors[BASELINE]:.2%}): do not extrapolate."
        )
    return " ".join(sentences)


def _in_order(board: Scoreboard) -> list[str]:
    """The preferred law, then the others by their error."""
    others = board.frame["error"].drop(board.preferred).sort_values(kind="stable").index
    return [board.preferred, *(str(law) for law in others)]


def _is_far(board: Scoreboard, law: str) -> bool:
    return bool(board.frame.loc[law, "error"] > FAR * board.frame.loc[board.preferred, "error"])


def _board(e: Evidence, among: list[str]) -> str:
    """The rows of these laws."""
    board, rows = e.scoreboard, []
    for law in among:
        r = board.frame.loc[law]
        name = _NAMES.get(law, law)
        if law == board.preferred:
            name = f"**{name}** (preferred)"
        free = f"{r.free:.0f}" if np.isfinite(r.free) else ""
        covered = or_none(r.coverage, "{:.0%}".format)
        behind = f"{r.behind:z.2%} +- {r.behind_se:.2%}"
        rows.append([name, free, f"{r.error:.2%} +- {r.error_se:.2%}", f"{r.bias:+z.2%}", covered, behind])
    head = ["law", "free", "mean error", "too high by", f"in {board.level:.0%} interval", "behind the best"]
    return table(head, rows)


def conventions(e: Evidence) -> str:
    """The exponents under each way of counting."""
    rows = [
        [r.params, r.compute, f"{r.a:.3f} {pair(r.a_low, r.a_high)}", f"{r.b:.3f} {pair(r.b_low, r.b_high)}"]
        for r in e.conventions.itertuples()
    ]
    return f"The same runs and law (`{e.law_name}`), counted differently:\n\n" + table(["N", "C", "a", "b"], rows)


def three_approaches(e: Evidence) -> str:
    """Envelope, profiles and law side by side."""
    rows = []
    for r in e.approaches.rows:
        name = [f"{r.approach}", r.method]
        if r.power is None:
            rows.append([*name, f"none: {r.reason}", ""])
            continue
        p = r.power
        rows.append([
            *name, f"{p.n_exponent:.3f} {pair(*p.n_interval)}", f"{p.tokens_exponent:.3f} {pair(*p.tokens_interval)}",
        ])  # fmt: skip
    return table(["approach", "by", "a", "b"], rows) + f"\n\n{e.approaches.verdict}."


def noise(e: Evidence) -> str:
    """The spread over seeds, next to the residuals of the law."""
    left = f"The law leaves {e.fit.noise:.2%} of the loss (robust sd of ln loss{noise_text(e.fit)})."
    try:
        cells = e.seed_noise
    except UnsupportedError as error:
        return f"{left} Seed noise is not measured: {error}."
    rows = [
        [count(n), count(d), f"{c['flops'].mean():.2g}", str(len(c)), str(c["seeds"].max()),
         loss_text(c["loss"].mean()), f"{pooled_sd(c):.2%}"]
        for (n, d), c in cells.groupby(["n_params", "tokens"])
    ]  # fmt: skip
    return f"{left} {_seed_noise(cells)}\n\n" + table(
        ["N", "tokens", "FLOPs", "settings", "seeds", "mean loss", "sd of ln loss"], rows
    )


def pooled_sd(cells: pd.DataFrame) -> float:
    """The standard deviation of ln loss between the seeds of a cell, pooled over cells."""
    return float(np.sqrt(np.average(cells["sd"] ** 2, weights=cells["seeds"] - 1)))


def _seed_noise(cells: pd.DataFrame) -> str:
    """The pooled standard deviation of ln loss between seeds, with its interval from the chi-square distribution."""
    freedom = int((cells["seeds"] - 1).sum())
    pooled = pooled_sd(cells)
    low, high = (pooled * np.sqrt(freedom / chdtri(freedom, p)) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return (
        f"Over seeds it varies by {pooled:.2%} [{low:.1%}, {high:.1%}] (pooled sd of {len(cells)} cells, {freedom} "
        "degrees of freedom)."
    )


def cells_table(e: Evidence) -> pd.DataFrame:
    """A row per data point with the law's loss, by compute and size."""
    try:
        frame = e.fit.points.frame.assign(predicted=e.fit.predicted, residual=e.fit.residuals)
    except UnsupportedError:
        frame = e.points.frame
    return frame.sort_values(["flops", "n_params"], ignore_index=True)


def cells(e: Evidence) -> str:
    """The data points as a table."""
    frame = cells_table(e)
    rows = [
        [f"{r.flops:.3g}", count(r.n_params), count(r.tokens), f"{r.tokens / r.n_params:.3g}", loss_text(r.loss),
         loss_text(r.predicted) if "predicted" in frame else "", f"{r.residual:+.2%}" if "residual" in frame else ""]
        for r in frame.head(MOST_CELLS).itertuples()
    ]  # fmt: skip
    more = f"\n\n{len(frame) - MOST_CELLS} more in cells.csv." if len(frame) > MOST_CELLS else ""
    return table(["FLOPs", "N", "tokens", "tokens/N", "loss", "law", "residual, ln(loss / law)"], rows) + more


def cost(e: Evidence) -> str:
    """What the study cost, and what shared trunks saved."""
    if not is_runs(e.table):
        return f"{e.points.frame['flops'].sum():.3g} FLOPs in all runs."
    runs = final_rows(e.table)
    if runs.empty:
        raise UnsupportedError("no run has finished")
    counted, trained = trained_tokens(e.table)
    text = [
        f"{len(runs)} runs in {runs['trunk_id'].nunique()} trunks; {runs['flops'].sum():.3g} FLOPs counted run by run."
    ]
    if trained < counted:
        text.append(f"Shared trunks: at most {count(trained)} tokens trained instead of {count(counted)}, "
                    f"a factor {counted / trained:.2f} saved or more.")  # fmt: skip
    seconds = runs["wall_seconds"].sum()
    if seconds > 0:
        text.append(f"{seconds / 60:.1f} core-minutes had every run been trained alone.")
    if is_forecast(e.table).any():
        from isoflop.scaling.stopping.saved import saved

        text.append(str(saved(e.table, e.fit)))
    left = e.table.loc[~e.table["state"].isin(["done", "stopped"]), "run_id"].nunique()
    if left:
        text.append(f"{left} runs diverged and enter no fit.")
    return " ".join(text)


def _chosen(e: Evidence) -> str:
    """How the law of the report was chosen."""
    if e.law is not None:
        return "as requested"
    with suppress(UnsupportedError):
        if e.scoreboard.preferred:
            return "preferred by the scoreboard"
    return f"by default: {'runs differ by what no candidate reads' if e.unread else 'too few scales to choose one'}"


def _meaning(meanings: dict[str, str], name: str) -> str:
    return f"{name} ({meanings[name]})" if name in meanings else f"what the table gives ({name})"


def _span(draws: Draws, name: str) -> str:
    return pair(*draws.interval(name, LEVEL))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
