"""results.json as a section of docs/benchmarks.md."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

NULL_GPU = (
    "PyTorch ran on a GPU that computes nothing (gpu/null_gpu), at real sizes: **nothing below is a measurement of a "
    "card, and no result was compared**. What it shows: whether each case runs; peak memory, as PyTorch's allocator "
    "counts it, with convolutions that do without cuDNN; launches, with each matrix product as one; and times of the "
    "host, which are those of {host}."
)
FLAGS = {"card": "", "rehearsal": " --rehearse", "null GPU": " --null-gpu"}
VERDICT = "within the bound"
SHOWN = 6
"""Lines of a table with a verdict that are shown, besides those that are not within their bounds."""


def section(
    steps: Sequence[Mapping[str, Any]],
    *,
    where: Literal["card", "rehearsal", "null GPU"],
    minutes: float,
    day: str,
    host: str = "",
) -> str:
    """The whole section in Markdown, one heading per step that has anything to say.

    Args:
        steps: as results.json holds them.
        where: the kit ran.
        minutes: it had.
        day: on which it ran.
        host: the machine, for a run on the null GPU.
    """
    facts: dict[str, Any] = {}
    for step in steps:
        for record in step["records"]:
            facts.update(record.get("fact", {}))
    card = facts.get("card", "unknown card")
    lines = [f"## On a GPU: {card}", ""]
    if where == "rehearsal":
        lines = ["## Rehearsal on the CPU", ""]
        lines += ["Tiny sizes, to try the code: no figure below says anything about a GPU.", ""]
    elif where == "null GPU":
        lines = ["## Without a card, on the null GPU", "", NULL_GPU.format(host=host), "", *_cases(steps), ""]
    versions = ", ".join(f"{name} {facts[name]}" for name in facts.get("versions", ()) if name in facts)
    command = f"python scripts/bench_gpu.py{FLAGS[where]} --minutes {minutes:g}"
    lines += [f"{day}. {versions or 'Versions unknown'}. `{command}`.", ""]
    for step in steps:
        lines += step_lines(step)
    lines += ["### How the steps went", "", *table_lines([_went(step) for step in steps]), ""]
    return "\n".join(lines)


def _went(step: Mapping[str, Any]) -> dict[str, object]:
    times = {"s": step["seconds"], "CPU s": step.get("cpu_s")}
    return {"step": step["name"], "status": step["status"], **times, "remark": step["error"]}


def failed_cases(step: Mapping[str, Any]) -> list[str]:
    """Cases of a step that ended with an error or were left out."""
    return [
        f"{step['name']}, {record['table']}: " + ", ".join(f"{k} {v}" for k, v in record["row"].items() if k != "ran")
        for record in step["records"]
        if str(record.get("row", {}).get("remark", "")).startswith(("error:", "left out:"))
    ]


def _cases(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many cases ran, and which did not."""
    ran = sum("ran" in record.get("row", {}) for step in steps for record in step["records"])
    failed = [case for step in steps for case in failed_cases(step)]
    if not failed:
        return [f"Every case that was begun ran: {ran}."]
    return [f"{ran} cases ran, {len(failed)} did not:", "", *(f"- {case}" for case in failed)]


def step_lines(step: Mapping[str, Any]) -> list[str]:
    """Heading, notes and tables of a step; nothing for one that left no result."""
    tables: dict[str, list[Mapping[str, object]]] = {}
    notes: list[str] = []
    for record in step["records"]:
        if "row" in record:
            tables.setdefault(record["table"], []).append(record["row"])
        elif "note" in record:
            notes.append(record["note"])
    if not tables and not notes:
        return []
    lines = [f"### {step['title']}", ""]
    if step["status"] != "done":
        lines += [f"Not whole: {step['status']}, {step['error']}", ""]
    lines += [line for note in notes for line in (note, "")]
    for name, rows in tables.items():
        shown = worth_showing(rows)
        lines += [f"**{name}**", ""]
        if any(VERDICT in row for row in rows):
            good = sum(bool(row.get(VERDICT)) for row in rows)
            rest = (
                f"; {len(rows) - len(shown)} of the others are in results.json alone" if len(shown) < len(rows) else ""
            )
            lines += [f"{good} of {len(rows)} lines are within their bounds{rest}.", ""]
        lines += [*table_lines(shown), ""]
    return lines


def worth_showing(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """All rows of a short table; of a long one with a verdict those that are wrong, and the worst of the others."""
    wrong = [row for row in rows if not row.get(VERDICT)]
    if len(rows) <= 2 * SHOWN or len(wrong) == len(rows):
        return list(rows)
    right = [row for row in rows if row.get(VERDICT)]
    by_difference = sorted(right, key=lambda row: -max(v for k, v in row.items() if type(v) is float and k != "bound"))
    return [*wrong, *by_difference[:SHOWN]]


def table_lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """A Markdown table with every column that some row has; remarks come last."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "remark"))
    if any(row.get("remark") for row in rows):
        columns.append("remark")
    head = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    return head + ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]


def cell(value: object) -> str:
    """A value as a table shows it: three figures that count, no bar that would end the cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value and (abs(value) < 0.01 or abs(value) >= 1e7):
            return f"{value:.1e}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")
