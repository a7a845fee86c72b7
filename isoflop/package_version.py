"""Which version of a package this is."""

UNKNOWN = "unknown"


def package_version(name: str = "isoflop") -> str:
    """The version of an installed package; UNKNOWN of a copy that was not installed (on PYTHONPATH, in an archive)."""
    from importlib.metadata import PackageNotFoundError, version  # loads zipfile and email, which no command needs

    try:
        return version(name)
    except PackageNotFoundError:
        return UNKNOWN
