"""Tables on the Hugging Face Hub: hf://datasets/USER/NAME[@REVISION][/FILE], a bundle or a file of a data set."""

import re
from pathlib import Path
from typing import Any

from isoflop.scaling.table.bundle.manifest import CONTENT, MANIFEST_FILE, is_bundle
from isoflop.scaling.table.columns import TableError

_PLACE = re.compile(r"hf:/datasets/([\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?:@(\w[\w.-]{0,99}))?(?:/(.+))?")


def on_hub(path: str | Path) -> bool:
    """Whether a path names something on the Hub."""
    return Path(path).parts[:1] == ("hf:",)


def address(path: str | Path) -> str:
    """hf://datasets/user/name of a path, which has lost a slash on the way."""
    return f"hf://{Path(path).as_posix().removeprefix('hf:').lstrip('/')}"


def fetch(path: str | Path, notes: list[str]) -> Path:
    """Where the bundle or the file that `path` names lies here, fetched unless it is in the cache of the Hub's library.

    The note added to `notes` names the commit. Raises TableError for a path that names neither, without the library,
    and for what the Hub refuses.
    """
    name, revision, file = _parts(path)
    if file:
        here = Path(_fetched(path, "hf_hub_download", repo_id=name, filename=file, revision=revision))
        commit = here.parents[file.count("/")].name
    else:
        patterns = [MANIFEST_FILE, *CONTENT]
        here = Path(_fetched(path, "snapshot_download", repo_id=name, revision=revision, allow_patterns=patterns))
        commit = here.name
        if not is_bundle(here):
            raise TableError(
                f"{address(path)}: no bundle of runs there (no {MANIFEST_FILE}); name a table in it: "
                f"{address(path)}/FILE"
            )
    notes.append(f"read from {address(path)} at commit {commit}")
    return here


def fetch_all(path: str | Path, folder: Path) -> Path:
    """`folder` with every file of a data set, as files and no links. Raises TableError as `fetch` does."""
    name, revision, file = _parts(path)
    if file:
        raise TableError(f"{address(path)}: a bundle is a whole data set; leave out {file}")
    _fetched(path, "snapshot_download", repo_id=name, revision=revision, local_dir=folder)
    return folder


def _parts(path: str | Path) -> tuple[str, str | None, str | None]:
    """Name, revision and file of an address."""
    found = _PLACE.fullmatch(Path(path).as_posix())
    if not found:
        raise TableError(
            f"{address(path)}: write it as hf://datasets/USER/NAME, of a file hf://datasets/USER/NAME/FILE"
        )
    return found[1], found[2], found[3]


def _fetched(path: str | Path, function: str, **arguments: Any) -> str:
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise TableError(f"{address(path)} needs huggingface-hub; pip install 'isoflop[hub]'") from error
    disable_progress_bars()
    try:
        return getattr(huggingface_hub, function)(repo_type="dataset", **arguments)
    except Exception as error:  # of many kinds: no network, no such data set, revision or file, no right to read it
        text = " ".join(str(error).split())[:200]
        raise TableError(f"{address(path)}: the Hub did not give it ({type(error).__name__}: {text})") from error
