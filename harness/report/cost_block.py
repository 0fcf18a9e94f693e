"""What each strategy took, as a block of a report."""

from __future__ import annotations

from harness.measures import MEASURES
from harness.render.numbers import number
from harness.report.blocks import Block, Head, Shown, slim
from harness.report.measured import measured
from harness.report.model import Table

_SHOWN = tuple(own for own in MEASURES if own.header)


def cost_block(table: Table, index: int) -> Block:
    """Of one data set: what each strategy took; in brackets the multiple of the reference's."""
    cells = table.cells(index)
    several = len({cell.costs.device for cell in cells}) > 1
    heads = [Head("strategy", right=False, data=True), *(Head(own.header) for own in _SHOWN)]
    heads += [Head("train minutes a point"), Head("GPU hours a point")]
    heads += [Head("device", right=False, data=True)] if several else []
    rows = []
    for cell in cells:
        own = [Shown(cell.label, cell.label.lower(), data=True)]
        for one in _SHOWN:
            value = cell.costs.get(one.field)
            ratio = f" ({cell.ratios[one.field]:.2f}x)" if one.field in cell.ratios else ""
            own.append(Shown(measured(one, value) + ratio, value))
        for value, digits in ((cell.costs.minutes_per_point, 2), (cell.costs.gpu_hours_per_point, 4)):
            own.append(Shown(number(value, digits=digits), value))
        own += [Shown(cell.costs.device or "several", data=True)] if several else []
        rows.append(tuple(own))
    devices = {cell.costs.device for cell in cells if cell.costs.device}
    notes = [f"On {devices.pop()}."] if len(devices) == 1 and not several else []
    if any(cell.ratios for cell in cells):
        notes.append(f"In brackets: the multiple of {table.reference}'s, on the same kind of device only.")
    notes.append("A point: of accuracy, gained over the same model untrained.")
    return slim(Block(f"{table.columns[index].title}: cost", tuple(heads), tuple(rows), tuple(notes), "cost"))
