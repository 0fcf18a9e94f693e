"""A whole report in the order it is read: the blocks of each table, then what follows the tables."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report import appendix
from harness.report.blocks import Part, accuracy_block, verdict_block
from harness.report.cost_block import cost_block
from harness.report.model import Report, Table
from harness.report.pair_blocks import average_block, pair_block


def table_part(table: Table) -> Part:
    """All blocks of one table."""
    blocks = [accuracy_block(table)]
    for index in range(len(table.columns)):
        if table.cells(index):
            blocks += [verdict_block(table, index), cost_block(table, index)]
    blocks += [block for block in (average_block(table), pair_block(table)) if block is not None]
    return Part(table.title, tuple(blocks), table.notes, table)


def parts(report: Report) -> Sequence[Part]:
    """The whole report, in the order it is read."""
    return [*(table_part(table) for table in report.tables), *appendix.parts(report)]
