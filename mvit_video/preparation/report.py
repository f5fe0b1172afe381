"""The report of a prepared data set as text: report.md, and the table at the end of the run."""

from collections.abc import Mapping, Sequence

from mvit_video.data.datasets.left_out import describe_left_out
from mvit_video.preparation.statistics import Statistics
from mvit_video.runtime.formatting import count_text, duration_text, size_text

_SHOWN = 50  # of a list; report.json has all
_BAR = 30


def markdown(report: Statistics) -> str:
    """report.md."""
    item = report["item"]
    parts = [
        f"# Data set report\n\n{_summary(report)}",
        "## How to train with it\n\n" + _use(report),
        *(_split(name, statistics, report) for name, statistics in report["splits"].items()),
        "## Problems\n\n" + _problems(report["problems"]),
        "## Duplicates\n\n" + _duplicates(report["duplicates"], item),
        f"## {item.capitalize()}s of different splits that look the same\n\n" + _near(report["near_duplicates"]),
        f"## {report['short']['title']}\n\n" + _short(report["short"], item),
    ]
    for title, key in (("Re-encoding", "reencoding"), ("Shards", "shards")):
        if report.get(key):
            parts.append(f"## {title}\n\n" + "\n".join(f"- {k}: {v}" for k, v in report[key].items()) + "\n")
    return _printable("\n".join(parts))


def summary_table(report: Statistics) -> str:
    """The end of the run: a row per split, and what needs attention."""
    timed = "duration_s" in report["quantities"].values()
    times = ("hours", "median s", "median fps") if timed else ()
    rows = [("split", "listed", "usable", "broken", "missing", "classes", "size", *times)]
    for name, statistics in report["splits"].items():
        bad = sum(count for status, count in statistics["statuses"].items() if status not in ("ok", "missing"))
        rows.append(
            (
                name,
                str(statistics["listed"]),
                str(statistics["usable"]),
                str(bad),
                str(statistics["statuses"].get("missing", 0)),
                str(statistics["classes"]["number"]),
                size_text(statistics["bytes"]),
                *(_times(statistics) if timed else ()),
            )
        )
    return _printable(aligned(rows))


def _times(statistics: Statistics) -> tuple[str, str, str]:
    """Hours of a split, and the medians of its videos' durations and rates."""
    duration, rate = (statistics[key].get("median", 0) for key in ("duration_s", "fps"))
    return f"{statistics['hours']:.2f}", f"{duration:g}", f"{rate:g}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if column == 0 else cell.rjust(w) for column, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    )


def attention(report: Statistics) -> list[str]:
    """Lines about what the user should look at; none if all is well."""
    lines, item = [], report["item"]
    statuses: dict[str, int] = {}
    for problem in report["problems"]:
        statuses[problem["status"]] = statuses.get(problem["status"], 0) + 1
    if statuses:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(statuses.items()))
        lines.append(f"problems with {count_text(sum(statuses.values()), item)}: {kinds}")
    same, near = report["duplicates"], report["near_duplicates"]
    if same["across_splits"]:
        lines.append(f"in more than one split, byte for byte: {count_text(same['across_splits'], item)}")
    if same["across_classes"]:
        lines.append(f"in more than one class, byte for byte: {count_text(same['across_classes'], item)}")
    if near["pairs"]:
        lines.append(f"in different splits and looking the same: {count_text(near['pairs'], 'pair')} of {item}s")
    for name, statistics in report["splits"].items():
        empty = statistics["classes"]["empty"]
        if empty:
            lines.append(f"without any {item} in {name}: {count_text(len(empty), 'class')} ({_some(empty, 3)})")
        if statistics["left_out"]:
            count = sum(map(len, statistics["left_out"].values()))
            what = describe_left_out(statistics["left_out"])
            lines.append(f"not used in {name}: {count_text(count, statistics['left_out_noun'])} ({what})")
    if report["short"]["videos"]:
        lines.append(f"{report['short']['rule']}: {count_text(report['short']['videos'], item)}")
    return [_printable(line) for line in lines]


def _summary(report: Statistics) -> str:
    splits = report["splits"].values()
    usable = count_text(sum(f["usable"] for f in splits), f"usable {report['item']}")
    hours = f", {sum(f['hours'] for f in splits):.2f} hours" if all("hours" in f for f in splits) else ""
    lines = [
        f"Written {report['created']} by mvit_video {report['mvit_video']}. Verification: {report['verify']}"
        + (" (every frame decoded)." if report["verify"] == "decode" else " (packets read, pictures not decoded)."),
        f"{usable}{hours}, {size_text(sum(f['bytes'] for f in splits))}. This run read "
        f"{count_text(report['read'], 'file')} in {duration_text(report['seconds'])}; "
        f"{report['known']} were known from earlier runs.",
    ]
    notes = attention(report)
    lines += ["", "Worth a look:", "", *(f"- {line}" for line in notes)] if notes else ["", "Nothing stands out."]
    return "\n".join(lines) + "\n"


def _use(report: Statistics) -> str:
    if not report["use"]:
        return f"No split has a usable {report['item']}.\n"
    return (
        "Give these options to mvit_video.train, evaluate and preview, in place of the source's own:\n\n"
        "```\n" + report["use"] + f"\n```\n\nThe index holds every usable {report['item']}"
        f"{' with its frame index' if 'frames' in report['quantities'] else ''}. "
        f"{report['layout']}\n"
    )


def _split(name: str, statistics: Statistics, report: Statistics) -> str:
    classes = statistics["classes"]
    lines = [f"## Split {name}", "", f"Source: `{statistics['source']}`", ""]
    statuses = ", ".join(f"{count} {kind}" for kind, count in sorted(statistics["statuses"].items()) if count)
    lines.append(f"{statistics['listed']} listed, {statistics['usable']} usable ({statuses}).")
    if statistics["left_out"]:
        lines.append(f"Not used: {describe_left_out(statistics['left_out'])}.")
    if statistics["segments"]:
        lines.append(f"{count_text(statistics['segments'], 'segment')} of {count_text(statistics['files'], 'file')}.")
    if statistics["labels"] is not None:
        lines.append(f"{count_text(statistics['labels'], 'label')} in all, for {report['item']}s may have several.")
    if statistics["frame_rate"] is not None:
        lines.append(f"Folders of pictures are videos of {statistics['frame_rate']:g} frames/s.")
    lines += statistics.get("notes", ())
    if statistics["listed_more_than_once"]:
        lines.append(f"{statistics['listed_more_than_once']} entries repeat a file that is listed before.")
    lines += ["", "| | min | 5 % | median | 95 % | max |", "|---|---|---|---|---|---|"]
    item = report["item"]
    rows = {f"{item}s per class": classes["videos"]}
    rows |= {title: statistics[key] for title, key in report["quantities"].items()}
    lines += [
        f"| {title} | " + " | ".join(f"{mark:g}" for mark in marks.values()) + " |" for title, marks in rows.items()
    ]
    lines += [
        "",
        f"{classes['number']} classes. Fewest: {_counted(classes['smallest'])}. Most: {_counted(classes['largest'])}.",
    ]
    if classes["empty"]:
        lines.append(f"Without a usable {item}: {_some(classes['empty'], _SHOWN)}.")
    for title, key in report["histograms"].items():
        lines += ["", f"{title}:", "", "```", *_bars(statistics[key]), "```"]
    return "\n".join(lines) + "\n"


def _bars(counts: Mapping[str, int]) -> list[str]:
    """A line with a bar for each count."""
    most = max(counts.values(), default=0)
    width = max((len(name) for name in counts), default=0)
    digits = len(str(most))
    return [
        f"{name.ljust(width)}  {str(count).rjust(digits)}  {'#' * -(-_BAR * count // max(most, 1))}".rstrip()
        for name, count in counts.items()
    ]


def _problems(found: Sequence[Statistics]) -> str:
    if not found:
        return "None.\n"
    rows = ["| split | status | file | reason |", "|---|---|---|---|"]
    for problem in found[:_SHOWN]:
        segment = f" {problem['segment']}" if "segment" in problem else ""
        cells = (problem["split"], problem["status"], f"`{problem['path']}`{segment}", problem["reason"])
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows) + _rest(len(found), "problems")


def _duplicates(statistics: Statistics, item: str) -> str:
    if not statistics["groups"]:
        return "No two files have the same bytes.\n"
    lines = [
        f"Byte for byte more than once: {count_text(statistics['groups'], item)} "
        f"({statistics['extra_files']} too many in all); {statistics['across_splits']} of them in more than one split, "
        f"{statistics['across_classes']} with more than one class.",
        "",
    ]
    for group in statistics["list"][:_SHOWN]:
        lines.append("- " + "; ".join(_named(video) for video in group["videos"]))
    return "\n".join(lines) + _rest(statistics["groups"], "duplicates")


def _near(statistics: Statistics) -> str:
    lines = [f"Rule: {statistics['rule']}. Found: {statistics['pairs']}.", ""]
    for pair in statistics["list"][:_SHOWN]:
        lines.append(f"- {pair['bits']:g} bits: " + "; ".join(_named(video) for video in pair["videos"]))
    return "\n".join(lines) + _rest(statistics["pairs"], "near_duplicates")


def _short(statistics: Statistics, item: str) -> str:
    lines = [f"{statistics['rule'].capitalize()}: {count_text(statistics['videos'], item)}.", ""]
    for video in statistics["list"][:_SHOWN]:
        unit = next(name for name in ("frames", "pixels") if name in video)
        lines.append(f"- {_named(video)}: {video[unit]} {unit} of {video['needed']:g}")
    return "\n".join(lines) + _rest(statistics["videos"], "short")


def _named(video: Statistics) -> str:
    segment = f" {video['segment']}" if "segment" in video else ""
    return f"{video['split']} `{video['path']}`{segment} ({video['class']})"


def _rest(total: int, key: str) -> str:
    return f"\n\n... and {total - _SHOWN} more, see {key} in report.json.\n" if total > _SHOWN else "\n"


def _counted(pairs: Sequence[Sequence[str | int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in pairs)


def _some(names: Sequence[str], number: int) -> str:
    return ", ".join(names[:number]) + (f" and {len(names) - number} more" if len(names) > number else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _printable(text: str) -> str:
    """File names that are no valid UTF-8 written with escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
