"""An entry for every law, out of the law itself."""

import re

import pytest

from isoflop.analysis.paper.bibliography import bibliography, key_of
from isoflop.scaling.laws import LAWS
from isoflop.scaling.laws.law import Law


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_laws_entry_and_its_source_are_of_one_paper(law):
    text = bibliography([law])
    entry = re.search(rf"@misc\{{{re.escape(key_of(law))},\n((?:  .*\n)+)\}}\n", text)
    assert entry
    if law.paper:
        assert law.source.startswith(law.paper.cite())
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry[1], re.MULTILINE))
        assert fields["eprint"] in law.source
        assert fields["year"] in law.source
        assert fields["author"].split(",")[0] in law.source
        assert len(fields["title"]) > 10


def test_one_entry_a_paper_and_one_for_the_package():
    text = bibliography(LAWS.values())
    keys = re.findall(r"@misc\{([^,]+),", text)
    assert len(keys) == len(set(keys))
    assert {*map(key_of, LAWS.values()), "isoflop"} == set(keys)


def test_a_law_of_ones_own_is_cited_by_what_it_says():
    class Mine(Law):
        name = "my_law & co"
        source = "in preparation, 100%"

    text = bibliography([Mine])
    assert "@misc{law-my-law---co," in text
    assert r"my\_law \& co" in text
    assert r"in preparation, 100\%" in text
