"""Run tables, laws, fits, intervals, Findings, forecasts and designs. Needs numpy, scipy, pandas and pyarrow alone."""

if __name__ == "scaling":
    raise ImportError("import isoflop.scaling: this folder is a part of the package isoflop")
