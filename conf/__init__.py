"""The Hydra tree, shipped as package data."""

if __name__ == "conf":
    raise ImportError("import isoflop.conf: this folder is a part of the package isoflop")
