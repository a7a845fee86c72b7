"""Figures and the report: what fits and runs look like. Draws what `isoflop.scaling` computed."""

if __name__ == "analysis":
    raise ImportError("import isoflop.analysis: this folder is a part of the package isoflop")
