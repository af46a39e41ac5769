"""The page of the claims says what the rules say."""

from erc_bench.analysis.claims import load
from tools.docs_pages.claims import page


def test_every_part_stands_with_columns_experiments_and_thresholds():
    """A reader needs no other file to redo a verdict."""
    text = page()
    for claim in load().claims:
        assert f"## {claim.id} {claim.title}" in text
        section = text.partition(f"## {claim.id} ")[2].partition("\n## ")[0]
        assert claim.statement in section
        for part in claim.parts:
            needed = [part.name, *part.columns, *(a for pair in part.arms for a in pair)]
            needed += [name for names in part.experiments.values() for name in names]
            for bound in (part.holds.above, part.holds.below) if part.holds else ():
                needed += [f"{bound:g}"] if abs(bound) < 1e9 else []
            for word in needed:
                assert word in section, (claim.id, word)
