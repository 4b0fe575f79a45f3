#!/usr/bin/env python3
"""Runs inside the machine that `run` boots, from its second disk, which is mounted at /repository.

  guest.py capture        captures the disk that the machine runs from, three times, under load
  guest.py check IMAGE    checks that the machine runs from IMAGE's disk, restored

A line for each check, and `N checks, M failed` at the end.
"""

import json
import os
import subprocess
import sys
import time

import load

REPOSITORY = "/repository"
# How each image has to come by what changed: the first is captured while nothing tracks the disk,
# which is then tracked for good.
IMAGES = {"first": "compare", "second": "compare", "third": "ebpf"}
DISK = "/dev/vda"


class Checks:
    """Counts what holds and what does not."""

    def __init__(self):
        self.count, self.failed = 0, 0

    def that(self, what, holds, why=""):
        self.count += 1
        self.failed += not holds
        print(f"ok   {what}" if holds else f"FAIL {what}: {why}", flush=True)

    def tell(self, text):
        print(f"  {text}", flush=True)

    def files(self, image, logs, folder, place):
        """What the load left in `folder` is in `place`, as of the image's instant."""
        def mark(name):
            with open(os.path.join(logs, f"{image}.{name}"), encoding="ascii") as file:
                return float(file.read())
        log = load.read_log(os.path.join(logs, log_name(folder)))
        found, needed = load.faults(place, log, mark("before"), mark("after"))
        what = f"{image} image: {needed} files in {folder} that were synced before"
        self.that(what, needed > 0 and not found, found[:10])


def log_name(folder):
    return folder.strip("/").replace("/", "-") + ".log"


def at(name):
    return os.path.join(REPOSITORY, name)


def output(*command, check=True):
    done = subprocess.run(command, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    return done.stdout.strip()


def imgx(*arguments, **more):
    return output("imgx", "--repo", at("images"), "--json", *arguments, **more)


def synced():
    """Bytes that the load synced so far."""
    logs = [load.read_log(at(log_name(folder))) for folder in load.FOLDERS]
    return sum(line[4] for log in logs for line in log if line[0] == "+")


def capture(checks, image):
    before, began = synced(), time.time()
    # Output goes to what is frozen, and the program lies there: neither may matter.
    with open("/var/log/imgx.json", "w+", encoding="utf-8") as told:
        done = subprocess.run(
            ["imgx", "--repo", at("images"), "--json", "capture", DISK, "--name", "machine",
             # Without acceleration a moment is a while, and the host may be busy.
             "--freeze-timeout", "30",
             "--hook-pre", f"date +%s.%N > {at(image)}.before",
             "--hook-post", f"date +%s.%N > {at(image)}.after"],
            check=False, stdout=told, stderr=subprocess.STDOUT)
        told.seek(0)
        text = "".join(line for line in told if '"event":"progress"' not in line)
    seconds = time.time() - began
    rate = (synced() - before) / seconds / 1e6
    checks.that(f"{image} image captured", done.returncode == 0, text)
    warnings = [line for line in text.splitlines() if '"warning"' in line]
    checks.that(f"{image} image: no warning", not warnings, warnings)
    manifest = json.loads(imgx("show", "machine"))
    moment = manifest.get("live") or {}
    checks.that(f"{image} image is one instant", moment and "doubt" not in moment, moment)
    frozen = sorted(one.split(" ")[0] for one in moment.get("filesystems", []))
    mounted = sorted(volume["point"] for volume in volumes())
    checks.that(f"{image} image: frozen were {' '.join(mounted)}", frozen == mounted, frozen)
    tracker = manifest.get("tracker")
    checks.that(f"{image} image: by {IMAGES[image]}", tracker == IMAGES[image], tracker)
    rounds = ", ".join(f"{size / 1e6:.1f}" for size in moment.get("rounds", []))
    checks.tell(f"{image} image: {seconds:.0f} s, frozen for {moment.get('frozen_milliseconds')} "
                f"ms; rounds of {rounds} MB; {rate:.1f} MB/s synced meanwhile")


def volumes():
    """Where each filesystem lies on the disk: first byte and length."""
    def sysfs(path):
        with open(os.path.join("/sys", path), encoding="ascii") as file:
            return int(file.read())

    found = []
    for folder in load.FOLDERS:
        node, kind, point = output(
            "findmnt", "-n", "-o", "SOURCE,FSTYPE,TARGET", "--target", folder).split()
        name = os.path.basename(os.path.realpath(node))
        volume = {"folder": folder, "kind": kind, "point": point, "start": 0,
                  "length": sysfs(f"class/block/{name}/size") * 512}
        if name.startswith("dm-"):
            # 0 SECTORS linear MAJOR:MINOR START: each logical volume is of one piece.
            table = output("dmsetup", "table", node).split()
            volume["start"] = int(table[4]) * 512
            name = os.path.basename(os.path.realpath(f"/sys/dev/block/{table[3]}"))
        volume["start"] += sysfs(f"class/block/{name}/start") * 512
        found.append(volume)
    return found


def captures(checks):
    output("install", at("imgx"), "/usr/local/bin/imgx")
    for folder in load.FOLDERS:
        os.makedirs(folder)
    with open(at("volumes"), "w", encoding="ascii") as file:
        json.dump(volumes(), file)
    imgx("init")
    writers = [subprocess.Popen([sys.executable, load.__file__, folder, at(log_name(folder))])
               for folder in load.FOLDERS]
    try:
        time.sleep(10)
        for image in IMAGES:
            capture(checks, image)
            if image == "first":
                tracking = output("imgx", "track", "status", DISK, check=False)
                checks.that("tracking ended with the capture", "not tracked" in tracking, tracking)
                output("imgx", "track", "start", DISK)
        checks.that("the load went on", all(writer.poll() is None for writer in writers))
    finally:
        for writer in writers:
            writer.terminate()
    checks.that("the load ended well", not any([writer.wait() for writer in writers]))


def check(checks, image):
    for folder in load.FOLDERS:
        checks.files(image, REPOSITORY, folder, folder)
    state = output("systemctl", "is-system-running", "--wait", check=False)
    checks.that("the system runs", state == "running", state)
    failed = output("systemctl", "--failed", "--no-legend", "--plain")
    checks.that("no unit failed", not failed, failed)
    swaps = output("swapon", "--show", "--noheadings")
    checks.that("its swap is in use", swaps != "", "none")
    kernel = ["journalctl", "--dmesg", "--no-pager", "--quiet"]
    errors = output(*kernel, "--priority", "err")
    checks.that("no error of the kernel", not errors, errors)
    replayed = output(*kernel, "--grep", "EXT4-fs.*recovery complete", check=False)
    checks.that("ext4 had no journal to replay", not replayed, replayed)


def main():
    checks = Checks()
    if sys.argv[1] == "capture":
        captures(checks)
    else:
        check(checks, sys.argv[2])
    checks.tell(f"{checks.count} checks, {checks.failed} failed")


if __name__ == "__main__":
    main()
