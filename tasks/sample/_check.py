"""What must hold of the sample's tables. Run by a test, and by hand after editing them:

python -m tasks.sample._check
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tasks import sample

FEWEST_FACTS = 300
FEWEST_UNSEEN = 40
WORDINGS = 3
ABSTRACTS = 350


def problems() -> list[str]:
    """Every rule that the tables break, one line each; empty when all is well."""
    groups = sample.read_groups()
    found = [*_table(groups), *(problem for group in groups for problem in _group(group))]
    if not found:  # rows are built from a table that holds
        found += [*_rows(sample.medqa_rows()), *_abstracts(sample.pubmedqa_rows())]
    return found


def _table(groups: tuple[sample.Group, ...]) -> Iterator[str]:
    facts = [fact for group in groups for fact in group.facts]
    unseen = [fact for group in groups for fact in group.unseen]
    if len(facts) < FEWEST_FACTS:
        yield f"{len(facts)} facts, expected at least {FEWEST_FACTS}"
    if len(unseen) < FEWEST_UNSEEN:
        yield f"{len(unseen)} unseen facts, expected at least {FEWEST_UNSEEN}"
    yield from _repeated("group", (group.name for group in groups))
    yield from _repeated("fact id", (fact.id for fact in facts + unseen))
    yield from _repeated("wording", (_plain(text) for fact in facts + unseen for text in fact.wordings))


def _group(group: sample.Group) -> Iterator[str]:
    answers = [_plain(fact.answer) for fact in group.facts]
    if len(answers) < len(sample.LETTERS):
        yield f"{group.name}: {len(answers)} facts, expected at least {len(sample.LETTERS)}"
    if group.step not in ("step1", "step2&3"):
        yield f"{group.name}: step is '{group.step}', expected step1 or step2&3"
    yield from _repeated(f"{group.name}: answer", answers)
    for fact in group.unseen:
        if _plain(fact.answer) not in answers:
            # Wrong options are trained answers, so an untrained right one would stand out.
            yield f"{fact.id}: '{fact.answer}' is not an answer of a trained fact of its group"
    for facts, wordings in ((group.facts, WORDINGS), (group.unseen, 1)):
        for fact in facts:
            if len(fact.wordings) != wordings:
                yield f"{fact.id}: {len(fact.wordings)} wordings, expected {wordings}"
            for text in fact.wordings:
                if re.search(rf"\b{re.escape(_plain(fact.answer))}\b", _plain(text)):
                    yield f"{fact.id}: a wording contains its answer '{fact.answer}'"


def _rows(table: sample.Table) -> Iterator[str]:
    yield from _repeated("MedQA row", (row["id"] for rows in table.values() for row in rows))
    asked = {name: {_plain(row["question"]) for row in rows} for name, rows in table.items()}
    for text in sorted(asked["test"] & (asked["train"] | asked["validation"])):
        yield f"a test wording is also in train or validation: {text}"
    facts = {
        name: {row["id"].rpartition("-w")[0] for row in rows if row["subgroup"] == kind}
        for name, rows, kind in (
            ("trained", table["train"], "seen"),
            ("seen", table["test"], "seen"),
            ("unseen", table["test"], "unseen"),
            ("validation", table["validation"], "seen"),
        )
    }
    # Paired tests take test items for independent of each other.
    yield from _repeated("fact asked in test", (row["id"].rpartition("-w")[0] for row in table["test"]))
    for fact in sorted(facts["seen"] - facts["trained"]):
        yield f"{fact}: tagged seen, but never trained"
    for fact in sorted(facts["unseen"] & facts["trained"]):
        yield f"{fact}: tagged unseen, but trained"
    for fact in sorted(facts["validation"] & facts["seen"]):
        yield f"{fact}: asked in validation and in test"


def _abstracts(table: sample.Table) -> Iterator[str]:
    rows: list[dict[str, Any]] = [row for part in table.values() for row in part]
    if len(rows) != ABSTRACTS:
        yield f"{len(rows)} abstracts, expected {ABSTRACTS}"
    yield from _repeated("abstract id", (row["pubid"] for row in rows))
    yield from _repeated("abstract question", (_plain(row["question"]) for row in rows))
    yield from _repeated("abstract", (_plain(" ".join(row["context"]["contexts"])) for row in rows))


def _repeated(what: str, values: Iterable[str]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{what} '{value}' is there {count} times"


def _plain(text: str) -> str:
    """Lower case, one space between words: what counts as the same text."""
    return " ".join(text.lower().split())


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or "no problems")
    raise SystemExit(1 if found else 0)
