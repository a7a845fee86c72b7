"""Where a run is measured: a curve of rows on few windows, and all windows at the end. No torch: plans count on it."""

FIRST_ROW = 64  # steps
ROWS_PER_DOUBLING = 2
CURVE_SHARE = 32  # rows on the way are measured on every 32nd window of the final evaluation,
CURVE_TOKENS = 4096  # or on more of a small one: so many targets if it has them


def row_steps(until: int) -> list[int]:
    """The steps of the curve's rows up to `until`: a geometric grid that depends on nothing."""
    steps, k = [], 0
    while (step := round(FIRST_ROW * 2 ** (k / ROWS_PER_DOUBLING))) <= until:
        steps.append(step)
        k += 1
    return steps


def curve_stride(eval_tokens: int) -> int:
    """One window in how many the rows on the way are measured on, of those of a final evaluation on `eval_tokens`."""
    return max(1, min(CURVE_SHARE, eval_tokens // CURVE_TOKENS))
