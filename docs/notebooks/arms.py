# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Comparing two arms
#
# A Transformer and an LSTM, trained at equal sizes and budgets: at equal loss, by how many times does one need less
# compute? The factor changes with scale.

# %%
# %matplotlib inline
import isoflop

table = isoflop.example("transformer_vs_lstm")
table.groupby("arm")["run_id"].nunique()

# %%
found = isoflop.multiplier(table, by="arm")
print(found)

# %% [markdown]
# The same as a figure: the two frontiers, and the factor with its interval.

# %%
isoflop.plot.multiplier(table).figure
