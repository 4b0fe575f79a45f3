"""Writers of eight kinds on the disk that `run` tortures.

Each is a process of its own, so that it can be stopped between two operations. One of them marks
all volumes in turn with a number, syncing each before the next: at any instant the numbers differ
by one at the most, and only in this order.
"""

import ctypes
import mmap
import multiprocessing
import os
import random
import struct
import time

# In which order volumes are marked.
ORDER = ["p1", "p4", "p2", "p5", "p6", "p3"]
MARK = "mark"
MIB = 1 << 20
BLOCK = 4096
LIBC = ctypes.CDLL(None, use_errno=True)
PUNCH = 0x03


def file_mark(folder):
    """The mark in a mounted filesystem; 0 before the first."""
    try:
        with open(os.path.join(folder, MARK), "rb") as file:
            return int(file.read() or b"0")
    except FileNotFoundError:
        return 0


def raw_mark(path, offset=0):
    """The mark at the beginning of a raw partition."""
    with open(path, "rb") as file:
        file.seek(offset)
        return struct.unpack("<Q", file.read(8))[0]


def write_file_mark(folder, number):
    # Replaced, so that a half-written one is never seen.
    new, path = os.path.join(folder, "mark.new"), os.path.join(folder, MARK)
    with open(new, "wb") as file:
        file.write(b"%d" % number)
        os.fsync(file.fileno())
    os.rename(new, path)
    synced(folder)


def synced(folder):
    folder = os.open(folder, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def direct(path):
    return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_SYNC)


def page(fill=b""):
    memory = mmap.mmap(-1, BLOCK)
    memory[:len(fill)] = fill
    return memory


class Kind:
    """What one writer does, once, again and again."""

    def __init__(self, disk, seed):
        self.disk, self.random = disk, random.Random(seed)
        self.number = 0

    def step(self):
        raise NotImplementedError


class Marks(Kind):
    """Marks all volumes in turn."""

    def __init__(self, disk, seed, number):
        super().__init__(disk, seed)
        self.number = number

    def step(self):
        self.number += 1
        for name in ORDER:
            if name in ("p4", "p5"):
                descriptor = direct(self.disk.part(name))
                os.pwrite(descriptor, page(struct.pack("<Q", self.number)), 0)
                os.close(descriptor)
            else:
                folder = self.disk.path_elsewhere() if name == "p6" else self.disk.point(name)
                write_file_mark(folder, self.number)
        return self.number


class SmallFiles(Kind):
    """Makes, renames and removes files on ext4."""

    def step(self):
        folder = self.disk.point("p1")
        self.number += 1
        path = os.path.join(folder, f"file{self.number % 40}")
        with open(path, "wb") as file:
            file.write(self.random.randbytes(self.random.randrange(60_000)))
            if self.random.random() < 0.5:
                os.fsync(file.fileno())
        if self.random.random() < 0.2:
            os.rename(path, f"{path}.renamed")
        if self.random.random() < 0.2:
            os.unlink(os.path.join(folder, f"file{self.number % 40}")) \
                if os.path.exists(path) else None


class Holes(Kind):
    """Appends, reserves and punches holes on XFS."""

    def step(self):
        path = os.path.join(self.disk.point("p2"), f"holes{self.random.randrange(6)}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        at = self.random.randrange(4 * MIB) // BLOCK * BLOCK
        what = self.random.random()
        if what < 0.6:
            os.pwrite(descriptor, self.random.randbytes(3 * BLOCK), at)
            os.fdatasync(descriptor)
        elif what < 0.8:
            os.posix_fallocate(descriptor, at, 64 * BLOCK)
        else:
            LIBC.fallocate(descriptor, PUNCH, ctypes.c_long(at), ctypes.c_long(16 * BLOCK))
        os.close(descriptor)


class Overwrites(Kind):
    """Overwrites one file on btrfs in place, past the page cache."""

    def step(self):
        path = os.path.join(self.disk.point("p3"), "overwritten")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        block = page(self.random.randbytes(64))
        os.pwrite(descriptor, block, self.random.randrange(512) * BLOCK)
        os.close(descriptor)


class Mapped(Kind):
    """Writes through mapped memory on ext4."""

    def step(self):
        path = os.path.join(self.disk.point("p1"), "mapped")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(descriptor, 2 * MIB)
        with mmap.mmap(descriptor, 2 * MIB) as memory:
            at = self.random.randrange(2 * MIB - 100)
            memory[at:at + 100] = self.random.randbytes(100)
            if self.random.random() < 0.3:
                memory.flush()
        os.close(descriptor)


class RawDirect(Kind):
    """Writes to a raw partition past the page cache."""

    def step(self):
        descriptor = direct(self.disk.part("p4"))
        block = page(self.random.randbytes(128))
        os.pwrite(descriptor, block, (1 + self.random.randrange(4000)) * BLOCK)
        os.close(descriptor)


class RawBuffered(Kind):
    """Writes to a raw partition through the page cache."""

    def step(self):
        descriptor = os.open(self.disk.part("p5"), os.O_RDWR)
        os.pwrite(descriptor, self.random.randbytes(7000), MIB + self.random.randrange(14 * MIB))
        os.fsync(descriptor)
        os.close(descriptor)


class Discards(Kind):
    """Discards a range of a raw partition, trims ext4."""

    def step(self):
        if self.random.random() < 0.8:
            at = 20 * MIB + self.random.randrange(2000) * BLOCK
            os.system(f"blkdiscard -f -o {at} -l {16 * BLOCK} {self.disk.part('p4')} 2>/dev/null")
        else:
            os.system(f"fstrim {self.disk.point('p1')} 2>/dev/null")


class Elsewhere(Kind):
    """Appends on the filesystem that is mounted in another namespace."""

    def step(self):
        path = os.path.join(self.disk.path_elsewhere(), f"log{self.random.randrange(4)}")
        with open(path, "ab") as file:
            file.write(self.random.randbytes(3000))
            os.fsync(file.fileno())
        if os.path.getsize(path) > 4 * MIB:
            os.truncate(path, 0)


KINDS = [SmallFiles, Holes, Overwrites, Mapped, RawDirect, RawBuffered, Discards, Elsewhere]


def work(make, go, idle, stop, told):
    """Steps while it may, and says when it rests."""
    kind = make()
    while not stop.is_set():
        if not go.is_set():
            idle.set()
            go.wait()
            idle.clear()
            continue
        try:
            number = kind.step()
        except OSError as error:
            # A full filesystem is no failure of what is tested.
            if error.errno not in (28, 122):
                raise
            number = None
        if number is not None:
            with told.get_lock():
                told.value = number
    idle.set()


class Writers:
    """All of them at work."""

    def __init__(self, disk, seed):
        self.disk, self.go, self.stop = disk, multiprocessing.Event(), multiprocessing.Event()
        self.told = multiprocessing.Value("Q", raw_mark(disk.part("p4")))
        first = self.told.value
        makers = [lambda: Marks(disk, seed, first)]
        makers += [lambda kind=kind, number=number: kind(disk, seed + number)
                   for number, kind in enumerate(KINDS)]
        self.crew = []
        for make in makers:
            idle = multiprocessing.Event()
            arguments = (make, self.go, idle, self.stop, self.told)
            process = multiprocessing.Process(target=work, args=arguments, daemon=True)
            self.crew.append((process, idle))

    def __enter__(self):
        self.go.set()
        for process, _ in self.crew:
            process.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.go.set()
        for process, _ in self.crew:
            process.join()

    def wait_for_marks(self, count):
        """Waits until all volumes were marked some times more."""
        target = self.told.value + count
        while self.told.value < target:
            if not all(process.is_alive() for process, _ in self.crew):
                raise RuntimeError("a writer ended")
            time.sleep(0.005)

    def marks(self):
        """What every volume is at least at."""
        return dict.fromkeys(ORDER, self.told.value)

    def mount_anew(self):
        """Has all rest, unmounts everything and mounts it again."""
        self.go.clear()
        for process, idle in self.crew:
            while not idle.wait(timeout=1):
                if not process.is_alive():
                    raise RuntimeError("a writer ended")
        self.disk.unmount()
        self.disk.mount()
        self.go.set()
