"""Studies of many runs: expanded, trained, resumed, recorded."""

if __name__ == "experiments":
    raise ImportError("import isoflop.experiments: this folder is a part of the package isoflop")
