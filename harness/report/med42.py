"""What Med42's comparison (arXiv 2404.14779) lays down for a table: its columns' order and averages."""

from __future__ import annotations

ORDER = (
    "medqa", "usmle_self_assessment", "usmle_sample_exam", "headqa", "medmcqa", "pubmedqa",
    "mmlu_clinical_knowledge", "mmlu_college_biology", "mmlu_college_medicine", "mmlu_medical_genetics",
    "mmlu_professional_medicine", "mmlu_anatomy",
)  # fmt: skip
"""Columns of these names come first, in this order; all others follow by name."""

USMLE_SETS = ("medqa", "usmle_self_assessment", "usmle_sample_exam")
"""Questions of, or in the style of, the US medical licensing exam."""

MMLU_PREFIX = "mmlu_"


def place(task: str) -> tuple[int, str]:
    """The sort key of a column."""
    return (ORDER.index(task) if task in ORDER else len(ORDER), task)


def averages(tasks: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Titles and columns of the averages worth showing: those over at least two columns, none twice."""
    candidates = (
        ("USMLE sets", tuple(i for i, task in enumerate(tasks) if task in USMLE_SETS)),
        ("MMLU subjects", tuple(i for i, task in enumerate(tasks) if task.startswith(MMLU_PREFIX))),
        ("all tasks", tuple(range(len(tasks)))),
    )
    shown: dict[tuple[int, ...], str] = {}
    for title, columns in candidates:
        if len(columns) > 1:
            shown[columns] = title
    return [(title, columns) for columns, title in shown.items()]
