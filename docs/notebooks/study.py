# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A study from Python
#
# Nine small Transformers, three sizes at three budgets, trained on the source code of the standard library.
# `isoflop.run` does what the command does, and can be interrupted and called again.

# %%
# %matplotlib inline
import os
from tempfile import mkdtemp

import isoflop

os.chdir(mkdtemp())
settings = [
    "study.name=nine",
    "study.sizes=[d6,d8,d12]",
    "study.budgets=[1e9,2e9,4e9]",
    "study.window.min_steps=20",
    "schedule.warmup_steps=10",  # runs this short have no room for the usual 100
    "where.workers=1",
]
isoflop.plan("", overrides=settings)

# %%
table = isoflop.run("", overrides=settings)
final = table[table["final"]]
final[["run_id", "n_params_total", "tokens", "flops", "loss"]].sort_values(["flops", "n_params_total"])

# %% [markdown]
# What the folder holds now, and the study's isoFLOP profiles: at each budget a size that is best.

# %%
isoflop.status("runs")

# %%
isoflop.plot.isoflop(isoflop.example("quick")).figure
