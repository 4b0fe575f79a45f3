"""Runs commands and says what they took; owns the loop devices and folders that they work on.

Peak memory is the sum over a pipeline's processes of each one's peak (`ru_maxrss` of wait4, which
covers the children that the process itself waited for). It is at least this script's own size at
the fork, some 20 MiB: Linux counts the peak from before the exec.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field

MIB = 1 << 20


class Failed(Exception):
    """A command failed; the text is its command line and the end of what it said."""


@dataclass
class Pipeline:
    """Processes connected by pipes; the last one's output goes to a new file, or nowhere."""

    stages: list
    output: str = None


@dataclass
class Job:
    """What is measured: untimed preparation, then pipelines one after the other, then a sync."""

    pipelines: list
    before: list = field(default_factory=list)
    result: str = None  # file or folder whose size counts, synced within the time measured
    env: dict = field(default_factory=dict)


@dataclass
class Measured:
    seconds: float
    cpu_seconds: float
    rss_bytes: int
    size_bytes: int = 0
    text: str = ""

    def record(self):
        figures = asdict(self)
        figures.pop("text")
        return figures


def run_job(job):
    """Drops the caches, runs the job and returns what it took."""
    env = {**os.environ, **job.env}
    for command in job.before:
        call(command, env)
    cpu, rss, text = 0.0, 0, ""

    def work():
        nonlocal cpu, rss, text
        for pipeline in job.pipelines:
            usage, said = run_pipeline(pipeline, env)
            cpu += sum(one.ru_utime + one.ru_stime for one in usage)
            rss = max(rss, sum(one.ru_maxrss for one in usage) * 1024)
            text += said

    seconds = seconds_of(work, job.result)
    size = apparent_size(job.result) if job.result else 0
    return Measured(seconds, cpu, rss, size, text)


def seconds_of(work, result=None):
    """What `work` takes with cold caches, until `result`, a file or folder, is durable."""
    drop_caches()
    began, start = time.time(), time.monotonic()
    work()
    if result:
        sync_tree(result, began)
    return time.monotonic() - start


def run_pipeline(pipeline, env):
    """Runs it to its end; returns each process's resource usage and what the last one printed."""
    with contextlib.ExitStack() as files:
        errors = files.enter_context(tempfile.TemporaryFile())
        if pipeline.output:
            output = files.enter_context(open(pipeline.output, "wb"))
        else:
            output = files.enter_context(tempfile.TemporaryFile())
        processes, source = [], subprocess.DEVNULL
        try:
            for number, command in enumerate(pipeline.stages):
                last = number == len(pipeline.stages) - 1
                sink = output if last else subprocess.PIPE
                process = subprocess.Popen(command, stdin=source, stdout=sink, stderr=errors,
                                           env=env)
                processes.append(process)
                if source is not subprocess.DEVNULL:
                    source.close()
                source = process.stdout
            usage = [wait(process) for process in processes]
        finally:
            stop(processes)
        for process, command in zip(processes, pipeline.stages):
            if process.returncode != 0:
                errors.seek(0)
                said = errors.read().decode(errors="replace")[-2000:]
                raise Failed(f"{' '.join(command)}: exit status {process.returncode}\n{said}")
        text = ""
        if not pipeline.output:
            output.seek(0)
            text = output.read().decode(errors="replace")
        errors.seek(0)
        return usage, text + errors.read().decode(errors="replace")


def wait(process):
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def stop(processes):
    """Ends what still runs when this script is interrupted or a stage could not start."""
    for process in processes:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            wait(process)


def call(command, env=None):
    """Runs a command outside the measurement and returns its output."""
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}\n"
                     f"{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as control:
        control.write("3\n")


def sync_tree(path, since):
    """Makes a result durable, so that no tool gains by leaving its output in the page cache.

    All that did not change after `since`, when it was durable already, is passed by, so that no
    tool pays for what it stored in earlier runs. The kernel's file times lag behind its clock by a
    tick, hence the second.
    """
    for folder, _, names in os.walk(path) if os.path.isdir(path) else [("", [], [path])]:
        for name in [*names, ""] if folder else names:
            here = os.path.join(folder, name)
            facts = os.lstat(here)
            if not stat.S_ISLNK(facts.st_mode) and facts.st_ctime >= since - 1:
                fsync(here)


def fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def apparent_size(path):
    """Bytes in a file, or in all files below a folder: `du --apparent-size` without the folders."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(path) for name in names)


@contextlib.contextmanager
def loop_device(file, writable=False, window=None):
    """A loop device over `file`, or over the (offset, length) of it, that does direct I/O."""
    command = ["losetup", "--find", "--show", "--direct-io=on"]
    if not writable:
        command.append("--read-only")
    if window:
        command += [f"--offset={window[0]}", f"--sizelimit={window[1]}"]
    device = call(command + [file]).strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


@contextlib.contextmanager
def written_file(path, size):
    """A file of zeros without holes or unwritten extents, removed at the end."""
    try:
        call(["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size // MIB}", "conv=fsync",
              "status=none"])
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


@contextlib.contextmanager
def work_folder(parent):
    folder = tempfile.mkdtemp(prefix="compare.", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def empty(folder):
    """A folder of this path that exists and holds nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder
