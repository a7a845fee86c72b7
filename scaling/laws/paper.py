"""The paper that a law is of: the one place of its authors, title, year and arXiv number."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper on arXiv. `authors` are written as BibTeX has them: "Family, Given and Family, Given and others"."""

    key: str
    authors: str
    title: str
    year: int
    arxiv: str

    def cite(self, place: str = "") -> str:
        """The paper in a line of text: "Hoffmann et al. 2022, arXiv 2203.15556, eq. 2"."""
        first, *more = self.authors.split(" and ")
        others = " et al." if more else ""
        return f"{first.partition(',')[0]}{others} {self.year}, arXiv {self.arxiv}" + (f", {place}" if place else "")
