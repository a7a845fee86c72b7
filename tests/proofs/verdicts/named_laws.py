"""Every law that has a name, through every command, on all of three tables: python -m tests.proofs.verdicts.named_laws

The suite takes each law through one of them (tests/scaling/prediction/test_predict.py). About a minute of a core.
"""

from isoflop.scaling.laws import PRESETS
from tests.support.fits.named_laws import TABLES, check_every_command


def main() -> None:
    """Print a line a table; raises AssertionError, with the law and its refusals, for one that fails."""
    for table in TABLES:
        for name in PRESETS:
            check_every_command(table, name)
        print(f"{table}: {len(PRESETS)} laws, each an answer of every command or a reason that the table gives")


if __name__ == "__main__":
    main()
