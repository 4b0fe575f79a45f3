"""The load on the machine's filesystems: files that are written, synced and removed, and a log of
it, from which follows what the disk had to hold at an instant.

Run by itself (`load.py FOLDER LOG`) it is the load, until it is ended.
"""

import os
import random
import signal
import sys
import time
import zlib

# A folder of each filesystem of the disk.
FOLDERS = ("/var/load", "/boot/load", "/srv/load", "/data/load")
# Bytes of files that are kept in each: it has to have room for them, and for what comes next.
KEPT = 40 << 20
# Bytes a second that are written to each: a machine without acceleration has no more to give.
RATE = 1_000_000


def write(folder, log):
    """Each line of the log is a file that is on the disk by all promises (`+`), or is gone (`-`):
    sign, name, when that began, when it was done, length, CRC-32."""
    kept, noise = [], random.Random(folder).randbytes(1 << 20)
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    directory = os.open(folder, os.O_RDONLY)
    with open(log, "w", buffering=1, encoding="ascii") as log:
        number, due = 0, time.monotonic()
        while not ended:
            number += 1
            name = f"{number:06}"
            content = name.encode() + noise[:number * 7919 % 400_000]
            time.sleep(max(0, due - time.monotonic()))
            # What a pause held up is not made up for.
            due = max(due, time.monotonic() - 1) + len(content) / RATE
            began = time.time()
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            log.write(f"+ {name} {began} {time.time()} {len(content)} {zlib.crc32(content)}\n")
            kept.append((name, len(content)))
            if sum(length for _, length in kept) > KEPT:
                name, length = kept.pop(0)
                began = time.time()
                os.remove(os.path.join(folder, name))
                os.fsync(directory)
                log.write(f"- {name} {began} {time.time()} {length} 0\n")


def read_log(log):
    """The lines of a log: (sign, name, began, done, length, CRC-32)."""
    with open(log, encoding="ascii") as file:
        # The last line may be half written.
        lines = [line.split() for line in file.read().split("\n")[:-1]]
    return [(sign, name, float(began), float(done), int(length), int(crc))
            for sign, name, began, done, length, crc in lines]


def faults(folder, log, before, after):
    """What `folder`, as it was at an instant between `before` and `after`, holds wrongly or lacks;
    and how many files it had to hold."""
    found, needed = [], 0
    removed = {name: (began, done) for sign, name, began, done, _, _ in log if sign == "-"}
    present = set(os.listdir(folder))
    for sign, name, began, done, length, crc in log:
        if sign == "-":
            continue
        is_gone = name in removed and removed[name][1] < before
        may_be_gone = name in removed and removed[name][0] < after
        if name in present and (began > after or is_gone):
            found.append(f"{name} is there, of another time")
        elif name not in present and done < before and not may_be_gone:
            found.append(f"{name} is missing")
        elif name in present and done < before:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            if len(content) != length or zlib.crc32(content) != crc:
                found.append(f"{name} has other content")
            needed += 1
    return found, needed


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])
