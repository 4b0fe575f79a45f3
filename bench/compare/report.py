"""Medians, bars and the Markdown that shows them."""

import os
import platform
import statistics
import subprocess
from dataclasses import dataclass

from tools import IMGX, LIMITS, PEERS, VERSIONS

SPEED_BAR = 0.9  # of the limit
SIZE_BAR = 1.05  # of the smaller of restic's and borg's
RSS_BAR = 512 << 20


@dataclass
class Figures:
    """A row's medians over all rounds."""

    title: str
    group: str
    seconds: float
    rate: float  # bytes of disk a second
    cpu_seconds: float
    rss_bytes: int  # the largest, not the median
    size_bytes: float
    spread: float  # (slowest - fastest) / median


@dataclass
class Bar:
    text: str
    holds: bool


def medians(rounds):
    """{row name: Figures} of the rows that every round has."""
    rows = {row.name: row for row in LIMITS + IMGX + PEERS}
    return {name: figures(rows[name], [done[name] for done in rounds])
            for name in rows if all(name in done for done in rounds)}


def figures(row, runs):
    def middle(key):
        return statistics.median(run[key] for run in runs)
    rates = [run["rate"] for run in runs]
    return Figures(row.title, row.group, middle("seconds"), middle("rate"), middle("cpu_seconds"),
                   max(run["rss_bytes"] for run in runs), middle("size_bytes"),
                   (max(rates) - min(rates)) / statistics.median(rates))


def bars(medians_by_name):
    """The bars whose rows were all measured, with their figures in the text."""
    found = medians_by_name
    result = []

    def speed(text, name, limits):
        if name not in found or not all(limit in found for limit in limits):
            return
        limit = min((found[limit] for limit in limits), key=lambda one: one.rate)
        ratio = found[name].rate / limit.rate
        result.append(Bar(f"{text}: {ratio:.2f} x {limit.title} (bar {SPEED_BAR})",
                          ratio >= SPEED_BAR))

    speed("capture", "imgx-capture", ["fio-read", "zstd-b1"])
    speed("capture of stored blocks", "imgx-stored", ["fio-read"])
    speed("capture of zeros", "imgx-zero", ["fio-read-zero"])
    speed("restore, repository on the same disk, cold", "imgx-restore", ["fio-write"])
    speed("restore, repository in memory", "imgx-restore-memory", ["fio-write"])
    result += peer_bars(found) + memory_bars(found) + size_bars(found)
    return result


def peer_bars(found):
    if "imgx-capture" not in found:
        return []
    own = found["imgx-capture"].seconds
    return [Bar(f"faster than {one.title}: {one.seconds / own:.2f} x", own < one.seconds)
            for one in found.values() if one.group == "peer"]


def memory_bars(found):
    own = [one for one in found.values() if one.group == "imgx"]
    if not own:
        return []
    most = max(own, key=lambda one: one.rss_bytes)
    return [Bar(f"peak memory: {most.rss_bytes / 2**20:.0f} MiB in {most.title} "
                f"(bar {RSS_BAR >> 20} MiB)", most.rss_bytes < RSS_BAR)]


def size_bars(found):
    """imgx's repository against restic's and borg's; both must have been measured."""
    if "restic" not in found or "borg" not in found:
        return []
    peer = min(found["restic"].size_bytes, found["borg"].size_bytes)
    result = []
    if "imgx-capture" in found:
        ratio = found["imgx-capture"].size_bytes / peer
        result.append(Bar(f"size: {ratio:.3f} x the smaller of restic's and borg's "
                          f"(bar {SIZE_BAR})", ratio <= SIZE_BAR))
    if "imgx-capture-3" in found:
        ratio = found["imgx-capture-3"].size_bytes / peer
        result.append(Bar(f"size with --compress 3: {ratio:.3f} x the smaller of restic's and "
                          f"borg's (bar: below 1)", ratio < 1))
    return result


def markdown(found, held, machine, rounds, size):
    lines = ["# imgx against the machine's limits and other tools", "",
             f"Disk of {size / 2**30:.2f} GiB; {len(rounds)} round(s), every row once a round, "
             "caches dropped before each; medians (memory: the largest). Times include making the "
             "result durable. Rates are bytes of the disk over the time, also where a tool reads "
             "only the used blocks. Memory is the sum of a pipeline's processes.", ""]
    lines += table(found)
    if held:
        lines += ["", "## Bars", ""]
        lines += [f"- {'holds' if bar.holds else '**FAILS**'}: {bar.text}" for bar in held]
    lines += ["", "## Machine", ""] + [f"- {key}: {value}" for key, value in machine.items()]
    return "\n".join(lines) + "\n"


def table(found):
    own, limit = found.get("imgx-capture"), limit_of_capture(found)
    lines = ["| what | s | MB/s | spread | CPU s | peak MiB | size MB | imgx capture's rate / this "
             "| this rate / capture's limit |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for one in found.values():
        is_limit = one.group == "limit"
        against = f"{own.rate / one.rate:.2f}" if own else ""
        cells = [one.title,
                 f"{one.seconds:.1f}", f"{one.rate / 1e6:.0f}", f"{one.spread:.0%}",
                 "" if is_limit else f"{one.cpu_seconds:.1f}",
                 "" if is_limit else f"{one.rss_bytes / 2**20:.0f}",
                 f"{one.size_bytes / 1e6:.1f}" if one.size_bytes else "",
                 against, f"{one.rate / limit:.2f}" if limit else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def limit_of_capture(found):
    """Bytes a second that a compressing capture cannot exceed here: what reads, what compresses."""
    if "fio-read" not in found or "zstd-b1" not in found:
        return None
    return min(found["fio-read"].rate, found["zstd-b1"].rate)


def machine(folder, imgx):
    facts = {
        "processor": field_of("/proc/cpuinfo", "model name") + f", {os.cpu_count()} cores",
        "memory": f"{int(field_of('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "kernel": platform.release(),
        "filesystem": output(["findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS",
                              "--target", folder]),
    }
    versions = dict(VERSIONS)
    if imgx:
        versions = {"imgx": [imgx, "--version"], **versions}
    for name, command in versions.items():
        facts[name] = output(command)
    return facts


def field_of(path, key):
    with open(path, encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return "unknown"


def output(command):
    """The first line that a command prints, or that it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[0] if lines else "unknown"
