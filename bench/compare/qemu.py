"""QEMU's incremental backups, taken by its storage daemon, which is the disk's writer meanwhile:
only what is written through QEMU gets into its dirty bitmap.

The grain is 64 KiB, which is a backup's smallest; its clusters are compressed with zstd one by
one, and written to a qcow2 that names the one before as its backing file. The daemon is told what
to do over its standard input and output, so that no socket is left behind.
"""

import contextlib
import json
import os
import subprocess

import measure

BITMAP, DISK = "changed", "disk"


@contextlib.contextmanager
def daemon(device, writer):
    """A `Daemon` for `device`, which is written through the file `writer` while it runs."""
    with open(writer, "xb"):
        pass
    command = ["qemu-storage-daemon", "--chardev", "stdio,id=qmp,signal=off",
               "--monitor", "chardev=qmp",
               "--blockdev", f"driver=host_device,node-name={DISK},filename={device},"
                             "cache.direct=on,aio=native",
               "--export", f"type=fuse,id=writer,node-name={DISK},mountpoint={writer},writable=on"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Daemon(process)
    finally:
        # It ends its exports and closes its files; what is killed would leave a dead mount.
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            subprocess.run(["umount", "--lazy", writer], check=False)
        process.stdin.close()
        process.stdout.close()
        os.unlink(writer)


class Daemon:
    """A running storage daemon with one disk."""

    def __init__(self, process):
        self.process, self.last, self.concluded = process, None, set()
        self.read()  # its greeting
        self.ask("qmp_capabilities")
        nodes = self.ask("query-named-block-nodes", flat=True)
        self.size = next(node["image"]["virtual-size"] for node in nodes
                         if node["node-name"] == DISK)

    def backup(self, folder):
        """Takes the disk into a new file of `folder`: whole first, then what was written since."""
        path = os.path.join(folder, f"{len(os.listdir(folder)):04}.qcow2")
        self.create(path)
        job = {"job-id": "backup", "device": DISK, "target": "target", "compress": True,
               "auto-dismiss": False}
        if self.last:
            job.update({"sync": "incremental", "bitmap": BITMAP})
        else:
            self.ask("block-dirty-bitmap-add", node=DISK, name=BITMAP)
            job["sync"] = "full"
        self.run("backup", "blockdev-backup", job)
        for node in ["target", "file"]:
            self.ask("blockdev-del", **{"node-name": node})
        self.last = path

    def create(self, path):
        """Makes a qcow2 as large as the disk, and opens it as the node `target`."""
        self.make({"driver": "file", "filename": path, "size": 0})
        self.ask("blockdev-add", **{"driver": "file", "node-name": "file", "filename": path})
        options = {"driver": "qcow2", "file": "file", "size": self.size,
                   "compression-type": "zstd"}
        if self.last:
            options.update({"backing-file": self.last, "backing-fmt": "qcow2"})
        self.make(options)
        self.ask("blockdev-add", **{"driver": "qcow2", "node-name": "target", "file": "file"})

    def make(self, options):
        self.run("create", "blockdev-create", {"job-id": "create", "options": options})

    def run(self, job, command, arguments):
        """Starts a job and waits for its end."""
        self.ask(command, **arguments)
        while job not in self.concluded:
            self.read()
        self.concluded.remove(job)
        ended = next(one for one in self.ask("query-jobs") if one["id"] == job)
        if "error" in ended:
            raise measure.Failed(f"qemu-storage-daemon: {command}: {ended['error']}")
        self.ask("job-dismiss", id=job)

    def ask(self, command, **arguments):
        """What the daemon returns."""
        said = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        self.process.stdin.write(said.encode())
        self.process.stdin.flush()
        while True:
            told = self.read()
            if "error" in told:
                raise measure.Failed(f"qemu-storage-daemon: {command}: {told['error']['desc']}")
            if "return" in told:
                return told["return"]

    def read(self):
        """The daemon's next message; jobs that it says have ended are noted."""
        line = self.process.stdout.readline()
        if not line:
            raise measure.Failed("qemu-storage-daemon ended by itself")
        told = json.loads(line)
        if told.get("event") == "JOB_STATUS_CHANGE" and told["data"]["status"] == "concluded":
            self.concluded.add(told["data"]["id"])
        return told
