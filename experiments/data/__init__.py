"""Corpora: from text or token files to the batches that a run trains on."""


class CorpusError(ValueError):
    """No corpus can be made from this configuration or these files; the message names key, value and file."""
