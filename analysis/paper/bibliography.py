"""BibTeX entries of the papers that laws are of, out of the laws themselves."""

import re
from collections.abc import Iterable

from isoflop.analysis.paper.latex import escaped
from isoflop.package_version import package_version
from isoflop.scaling.laws.law import Law, Paper


def key_of(law: type[Law]) -> str:
    """What \\cite takes for a law: its paper's key, or one of its own."""
    return law.paper.key if law.paper else "law-" + re.sub(r"[^A-Za-z0-9-]", "-", law.name or law.__name__)


def bibliography(laws: Iterable[type[Law]], further: Iterable[Paper] = ()) -> str:
    """An entry for each paper of these laws and each further one, once, and one for isoflop.

    A law without a paper has its source as note.
    """
    entries = {key_of(law): _entry(law) for law in laws} | {paper.key: _of_paper(paper) for paper in further}
    return "\n".join([*(entries[key] for key in sorted(entries)), _own()])


def _entry(law: type[Law]) -> str:
    paper = law.paper
    if paper is None:
        note = escaped(law.source) or "a law of the authors"
        return _misc(key_of(law), {"title": f"{{{escaped(law.name or law.__name__)}}}", "note": note})
    return _of_paper(paper)


def _of_paper(paper: Paper) -> str:
    return _misc(
        paper.key,
        {
            "author": escaped(paper.authors),
            "title": f"{{{escaped(paper.title)}}}",
            "year": str(paper.year),
            "eprint": paper.arxiv,
            "archivePrefix": "arXiv",
        },
    )


def _own() -> str:
    title = "{isoflop: scaling-law experiments and their analysis}"
    return _misc("isoflop", {"title": title, "note": f"version {package_version()}"})


def _misc(key: str, fields: dict[str, str]) -> str:
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{key},\n{lines}\n}}\n"
