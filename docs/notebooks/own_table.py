# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From a CSV to a law
#
# Parameters, tokens and loss of twelve runs, written as a CSV, and a law fitted to them.

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import mkdtemp

import isoflop
from isoflop.scaling.findings.diagnose import diagnose

path = Path(mkdtemp()) / "runs.csv"
path.write_text("""n_params,tokens,loss
1238144,5000000,8.156
1238144,20000000,5.643
1238144,80000000,4.211
2869504,5000000,7.294
2869504,20000000,5.299
2869504,80000000,3.818
8886784,5000000,6.653
8886784,20000000,4.798
8886784,80000000,3.207
33506304,5000000,6.061
33506304,20000000,4.497
33506304,80000000,2.790
""")
table = isoflop.read_table(path)
table[["n_params", "tokens", "loss"]]

# %% [markdown]
# A fit holds its law, whether it converged, and how far the points lie from it.

# %%
fitted = isoflop.fit("chinchilla-tied", table)
print(fitted)

# %% [markdown]
# Intervals refit the law without one run at a time. What speaks against an answer is a Finding.

# %%
draws = isoflop.jackknife(fitted)
for name in ("A", "B", "alpha"):
    low, high = draws.interval(name)
    print(f"{name:>6} {getattr(fitted.law, name):10.4g}  [{low:.4g}, {high:.4g}]")

# %%
for finding in diagnose(fitted):
    print(finding)

# %% [markdown]
# How far each run lies from the law.

# %%
isoflop.plot.residuals_n_params(table).figure
