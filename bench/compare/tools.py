"""What is compared: the machine's limits, imgx's own jobs, and the same work by other tools.

Each row is a `Row` whose `job` builds what to measure from a `Bench`: the devices, the folder to
write to and imgx's path. A row's result is removed before the next one runs, except imgx's first
repository, which later rows of the same round read.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Callable

from measure import MIB, Job, Pipeline, call, empty

ZSTD_SAMPLE_MIB = 1024

MEMORY = "/dev/shm/imgx-compare"  # where a repository is put that no disk limits


@dataclass
class Bench:
    """What the rows work on."""

    disk: str  # loop device of the Debian disk
    zero: str  # loop device of the disk of zeros
    target: str  # loop device that restores and fio write to
    size: int  # of each of them, in bytes
    sample: str  # file of every n-th MiB of the disk
    folder: str  # where results go
    partitions: list  # (loop device, whether it holds an ext filesystem) of the disk's partitions
    imgx: str = None

    def at(self, name):
        return os.path.join(self.folder, name)


@dataclass
class Row:
    name: str
    title: str
    group: str  # limit, imgx or peer
    job: Callable
    rate: Callable = None  # takes bytes/s from the output; else the disk's size over the time


def fio(device, direction):
    """io_uring and O_DIRECT, one pass. Sixteen 1 MiB requests are enough to saturate a device."""
    command = ["fio", "--name=limit", f"--filename={device}", f"--rw={direction}", "--direct=1",
               "--ioengine=io_uring", "--bs=1M", "--iodepth=16", "--output-format=json"]
    if direction == "read":
        return command + ["--readonly"]
    return command + ["--refill_buffers", "--end_fsync=1"]


def fio_rate(direction):
    def rate(text):
        report = json.loads(text[text.index("{"):text.rindex("}") + 1])
        return report["jobs"][0][direction]["bw_bytes"]
    return rate


def zstd_rate(text):
    """The last compression speed that `zstd -b` prints, behind the ratio, in MB/s of 10^6 bytes."""
    return float(re.findall(r"\(x[\d.]+\), *([\d.]+) MB/s", text)[-1]) * 1e6


def zstd_cores_rate(text):
    return zstd_rate(text) * (os.cpu_count() or 1)


def one(*command):
    """A pipeline of one process."""
    return Pipeline([list(command)])


LIMITS = [
    Row("fio-read", "fio read (io_uring, O_DIRECT)", "limit",
        lambda b: Job([Pipeline([fio(b.disk, "read")])]), fio_rate("read")),
    Row("fio-read-zero", "fio read of the disk of zeros", "limit",
        lambda b: Job([Pipeline([fio(b.zero, "read")])]), fio_rate("read")),
    Row("fio-write", "fio write (io_uring, O_DIRECT, fresh buffers)", "limit",
        lambda b: Job([Pipeline([fio(b.target, "write")])]), fio_rate("write")),
    Row("zstd-b1", "zstd -b1 x cores", "limit",
        lambda b: Job([one("zstd", "-b1", "-i3", b.sample)]), zstd_cores_rate),
]


def imgx(bench, repository, *arguments):
    return [bench.imgx, "--repo", bench.at(repository), *arguments]


def imgx_capture(repository, source, *arguments, fresh=True):
    """A capture into a new repository, or (`fresh=False`) into one that an earlier row made."""
    def job(bench):
        folder = bench.at(repository)
        before = []
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
            before = [imgx(bench, repository, "init")]
        capture = imgx(bench, repository, "capture", getattr(bench, source), *arguments)
        return Job([Pipeline([capture])], before, folder)
    return job


def imgx_restore(bench):
    """A restore over other bytes, so that comparing the target afterwards cannot pass by chance."""
    restore = imgx(bench, "imgx", "restore", "debian", bench.target, "--yes")
    return Job([Pipeline([restore])], [fio(bench.target, "write")], bench.target)


def imgx_restore_from_memory(bench):
    """Like fio's own buffers, the repository is in memory: nothing else is asked of the disk."""
    restore = [bench.imgx, "--repo", MEMORY, "restore", "debian", bench.target, "--yes"]
    copy = ["cp", "-r", bench.at("imgx"), MEMORY]
    shutil.rmtree(MEMORY, ignore_errors=True)
    return Job([Pipeline([restore])], [copy, fio(bench.target, "write")], bench.target)


IMGX = [
    Row("imgx-capture", "imgx capture", "imgx",
        imgx_capture("imgx", "disk", "--name", "debian")),
    Row("imgx-stored", "imgx capture, all blocks already stored", "imgx",
        imgx_capture("imgx", "disk", "--name", "again", "--parent", "none", fresh=False)),
    Row("imgx-verify", "imgx verify", "imgx",
        lambda b: Job([Pipeline([imgx(b, "imgx", "verify")])])),
    Row("imgx-restore", "imgx restore, repository on the same disk, cold", "imgx", imgx_restore),
    Row("imgx-restore-memory", "imgx restore, repository in memory", "imgx",
        imgx_restore_from_memory),
    Row("imgx-capture-3", "imgx capture --compress 3", "imgx",
        imgx_capture("imgx-3", "disk", "--name", "debian", "--compress", "3")),
    Row("imgx-zero", "imgx capture of the disk of zeros", "imgx",
        imgx_capture("imgx-zero", "zero", "--name", "zero")),
]


def dd_job(bench):
    copy = bench.at("dd.raw")
    return Job([one("dd", f"if={bench.disk}", f"of={copy}", "bs=1M", "iflag=direct",
                    "oflag=direct", "status=none")], result=copy)


def partclone_job(bench):
    """Used blocks of ext partitions, every block of others, and the first MiB with the table."""
    folder = empty(bench.at("partclone"))
    head = ["dd", f"if={bench.disk}", "bs=1M", "count=1", "status=none"]
    pipelines = [Pipeline([head], os.path.join(folder, "head"))]
    for number, (device, ext) in enumerate(bench.partitions, 1):
        if ext:
            source = ["partclone.ext4", "-c", "-s", device, "-o", "-", "-L", "/dev/null"]
        else:
            source = ["dd", f"if={device}", "bs=1M", "status=none"]
        output = os.path.join(folder, f"p{number}.zst")
        pipelines.append(Pipeline([source, ["zstd", "-1", "-T0", "-q", "-c"]], output))
    return Job(pipelines, result=folder)


def qemu_job(bench):
    image = bench.at("disk.qcow2")
    return Job([one("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c",
                    "-o", "compression_type=zstd", bench.disk, image)], result=image)


def borg_job(bench):
    folder = empty(bench.at("borg"))
    repository = os.path.join(folder, "repository")
    env = {"BORG_BASE_DIR": empty(bench.at("borg-home")),
           "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    return Job([one("borg", "create", "--read-special", "--compression", "zstd,1",
                    f"{repository}::debian", bench.disk)],
               [["borg", "init", "--encryption", "none", repository]], folder, env)


def restic_job(bench):
    folder = empty(bench.at("restic"))
    env = {"RESTIC_PASSWORD": "comparison", "RESTIC_REPOSITORY": folder,
           "RESTIC_CACHE_DIR": empty(bench.at("restic-cache"))}
    source = ["dd", f"if={bench.disk}", "bs=1M", "iflag=direct", "status=none"]
    sink = ["restic", "--quiet", "backup", "--stdin", "--stdin-filename", "disk.raw"]
    return Job([Pipeline([source, sink])], [["restic", "--quiet", "init"]], folder, env)


PEERS = [
    Row("dd", "dd to a file (O_DIRECT on both sides)", "peer", dd_job),
    Row("partclone", "partclone.ext4 -c, zstd -1 -T0 (used blocks)", "peer", partclone_job),
    Row("qemu-img", "qemu-img convert -c, qcow2 with zstd", "peer", qemu_job),
    Row("borg", "borg create --read-special -C zstd,1", "peer", borg_job),
    Row("restic", "restic backup --stdin", "peer", restic_job),
]

VERSIONS = {
    "dd": ["dd", "--version"],
    "fio": ["fio", "--version"],
    "zstd": ["zstd", "--version"],
    "partclone": ["partclone.ext4", "--version"],
    "qemu-img": ["qemu-img", "--version"],
    "borg": ["borg", "--version"],
    "restic": ["restic", "version"],
}

PACKAGES = {"fio": "fio", "zstd": "zstd", "partclone.ext4": "partclone", "borg": "borgbackup",
            "qemu-img": "qemu-utils", "restic": "restic", "sfdisk": "fdisk", "blkid": "util-linux",
            "losetup": "mount"}


def partition_windows(disk):
    """(offset, length) of each partition, in bytes. Not every kernel reads GPT on loop devices."""
    table = json.loads(call(["sfdisk", "--json", disk]))["partitiontable"]
    sector = table.get("sectorsize", 512)
    return [(part["start"] * sector, part["size"] * sector) for part in table["partitions"]]


def is_ext(device):
    """Whether an ext2, ext3 or ext4 filesystem is on it."""
    kind = subprocess.run(["blkid", "--probe", "--output", "value", "--match-tag", "TYPE", device],
                          capture_output=True, text=True, check=False).stdout
    return kind.startswith("ext")


def cut_sample(disk, path):
    """Copies every n-th MiB of `disk`, so that `zstd -b` sees the whole disk within its memory."""
    with open(disk, "rb", buffering=0) as source, open(path, "wb") as out:
        mebibytes = os.path.getsize(disk) // MIB
        step = max(1, mebibytes // ZSTD_SAMPLE_MIB)
        for number in range(step // 2, mebibytes, step):
            out.write(os.pread(source.fileno(), MIB, number * MIB))
