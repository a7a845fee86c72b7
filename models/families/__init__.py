"""One file for each architecture: its `Family`, under the name that `model.family` calls it by."""
