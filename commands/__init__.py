"""The commands of `isoflop`, a module a topic. Imports are lazy; the work is done in the other packages."""

if __name__ == "commands":
    raise ImportError("import isoflop.commands: this folder is a part of the package isoflop")
