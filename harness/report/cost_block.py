"""What each strategy took, as a block of a report."""

from __future__ import annotations

from harness.render.numbers import GIB, MIB, number, small_percent
from harness.report.blocks import Block, Head, Shown, slim
from harness.report.model import Table

COSTS = (
    ("trained %", "trainable_fraction", small_percent),
    ("GPU peak GiB", "gpu_memory_bytes", lambda v: number(v, GIB, 2)),
    ("host peak GiB", "host_memory_bytes", lambda v: number(v, GIB, 2)),
    ("tokens/s", "train_tokens_per_second", number),
    ("train s", "train_seconds", lambda v: number(v, digits=1)),
    ("whole run s", "total_seconds", lambda v: number(v, digits=1)),
    ("adapter MiB", "adapter_bytes", lambda v: number(v, MIB, 1)),
    ("GPU hours", "gpu_hours", lambda v: number(v, digits=3)),
    ("energy kJ", "energy_joules", lambda v: number(v, 1000, 1)),
    ("train minutes a point", "minutes_per_point", lambda v: number(v, digits=2)),
    ("GPU hours a point", "gpu_hours_per_point", lambda v: number(v, digits=4)),
)


def cost_block(table: Table, index: int) -> Block:
    """Of one data set: what each strategy took; in brackets the multiple of the reference's."""
    cells = table.cells(index)
    several = len({cell.costs.device for cell in cells}) > 1
    heads = [Head("strategy", right=False, data=True), *(Head(header) for header, _, _ in COSTS)]
    heads += [Head("device", right=False, data=True)] if several else []
    rows = []
    for cell in cells:
        own = [Shown(cell.label, cell.label.lower(), data=True)]
        for _, name, show in COSTS:
            value = getattr(cell.costs, name)
            ratio = f" ({cell.ratios[name]:.2f}x)" if name in cell.ratios else ""
            own.append(Shown(show(value) + ratio, value))
        own += [Shown(cell.costs.device or "several", data=True)] if several else []
        rows.append(tuple(own))
    devices = {cell.costs.device for cell in cells if cell.costs.device}
    notes = [f"On {devices.pop()}."] if len(devices) == 1 and not several else []
    if any(cell.ratios for cell in cells):
        notes.append(f"In brackets: the multiple of {table.reference}'s, on the same kind of device only.")
    notes.append("A point: of accuracy, gained over the same model untrained.")
    return slim(Block(f"{table.columns[index].title}: cost", tuple(heads), tuple(rows), tuple(notes), "cost"))
