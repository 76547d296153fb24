"""A worker without torch, as a real little program: `python fake_worker.py FD PARENT`.

Its nursery is the real one; only what a child does is scripted, by the model's name: `fake:<act>` acts while it
starts, `fake:<act>-later` at its second sample, `fake:<number>` is a model of so many images a second. What follows
a `~` is a fact of it: `fake:100~params=2000~answer=1.5`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import msgspec

from vanbench.record.ceilings import Ceiling, Ceilings, Stream
from vanbench.record.environment import Environment, Hardware, Rest, Software
from vanbench.record.measurement import Answer, Disturbance, Facts, Sample
from vanbench.record.ops import Work
from vanbench.record.task import (
    Ask,
    Closed,
    Declined,
    FindCeilings,
    Found,
    Measure,
    Named,
    Names,
    Probe,
    Probed,
    Ready,
    Said,
    Taken,
    Vet,
    Vetted,
)
from vanbench.worker import nursery
from vanbench.worker.channel import Channel

ACTS = (
    "exit",
    "hang",
    "segv",
    "garbage",
    "half",
    "raise",
    "oom",
    "oom_company",
    "skip",
    "nan",
    "wrong",
    "endless",
    "killed",
)


def environment(device: str) -> Environment:
    hardware = Hardware(
        architecture="x86_64",
        cpu="Fake CPU",
        cores=2,
        logical_cores=2,
        cpu_quota=None,
        memory_gib=int(os.environ.get("FAKE_MEMORY_GIB", "24")),
        virtualisation=None,
    )
    software = Software(
        vanbench="0", python="3", torch=os.environ.get("FAKE_TORCH", "2"), timm="1", numpy="2", os="Linux",
        kernel="6", libc="glibc 2",
    )  # fmt: skip
    rest = Rest(
        pressure=0.0, busy=0.0, load_1min=0.0, free_bytes=1 << 34, governor=None, turbo=None, wait_policy="default",
        threads=2, allocator="system",
    )  # fmt: skip
    return Environment(
        machine_key=hardware.key,
        machine="fake-machine",
        date="2026-01-01T00:00:00Z",
        device="cpu" if device == "auto" else device,
        device_name="Fake CPU (2 cores)",
        hardware=hardware,
        software=software,
        rest=rest,
        unsupported={"tf32": "the CPU has no tf32"},
    )


def ceilings(task: FindCeilings) -> Ceilings:
    """Roofs of 1 GB/s and 10 GFLOP/s, or FAKE_ROOF times that."""
    factor = float(os.environ.get("FAKE_ROOF", "1"))

    def roof(rate: float) -> Ceiling:
        return Ceiling(best=rate * factor, median=rate, low=rate, visits=1, how="fake")

    return Ceilings(
        machine_key=task.machine_key, device=task.device, device_name=task.device_name,
        threads=task.threads if isinstance(task.threads, int) else 2, date="2026-01-01T00:00:00Z",
        seconds=task.seconds, torch_version="2", matrix={"fp32": roof(1e10)}, vector={"fp32": roof(1e10)},
        streams=(Stream(kind="copy", bytes=1 << 20, ceiling=roof(1e9)),),
    )  # fmt: skip


def act(word: str, channel: Channel) -> None:
    """Do what the model's name says; returns for words that are no act."""
    if word == "exit":
        print("about to leave", flush=True)
        os._exit(3)
    elif word == "hang":
        time.sleep(1e6)
    elif word == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "garbage":
        channel._socket.sendall(b"this is no message\n")
        time.sleep(1e6)
    elif word == "half":
        channel._socket.sendall(b'{"type":"rea')
        os._exit(0)
    elif word == "raise":
        raise RuntimeError("scripted")
    elif word in ("oom", "oom_company"):
        channel.send(Declined(kind="out_of_memory", message="OutOfMemoryError: scripted"))
    elif word == "skip":
        channel.send(Declined(kind="skipped", message="not on this device"))
    elif word == "nan":
        channel.send(Declined(kind="non_finite", message="the output is not finite"))
    elif word == "wrong":
        channel.send(Declined(kind="wrong_answer", message="logits differ"))
    elif word == "endless":
        while True:
            channel._socket.sendall(b"x" * 65536)


def serve(message: bytes, channel: Channel) -> None:
    task = msgspec.json.decode(message, type=Names | Probe | Vet | Measure | FindCeilings)
    if isinstance(task, FindCeilings):
        act(os.environ.get("FAKE_CEILINGS", ""), channel)
        channel.send(Said(phase="50%"))
        channel.send(Found(ceilings=ceilings(task)))
        return
    if isinstance(task, Probe):
        if task.device == "cuda":
            channel.send(Declined(kind="user", message="device 'cuda' is not here (allowed: auto, cpu)"))
            return
        channel.send(Probed(environment=environment(task.device)))
        return
    if isinstance(task, Names):
        lacking = os.environ.get("FAKE_LACKS", "nothing")
        problems = {m: f"unknown model {m!r}" for m in task.models if not m.startswith("fake:") or m == lacking}
        channel.send(Named(problems=problems, rows=[(m, 1, 1) for m in task.models]))
        return
    if isinstance(task, Vet):
        act(task.cell.model.removeprefix("fake:vet_"), channel)
        channel.send(Vetted(loaded=("mine",) if task.under and not os.environ.get("FAKE_STRANGER") else ()))
        return
    name, *said = task.cell.model.removeprefix("fake:").split("~")
    facts = dict(each.split("=") for each in said)
    word, _, when = name.partition("-")
    channel.send(Said(phase="building"))
    alone_marker = os.path.join(os.environ["VANBENCH_CACHE"], f"oom-{task.cell.key}")
    if word == "oom_company":
        # At a sample, so that others are certainly alive; the second time, alone, it has room.
        if os.path.exists(alone_marker):
            word = "100"
        else:
            open(alone_marker, "w").close()
            when = "later"
    if word in ACTS and not when:
        act(word, channel)
        return
    speed = float(word) if word.replace(".", "").isdigit() else 100.0
    noise = random.Random(os.getpid())
    channel.send(
        Ready(
            facts=Facts(
                device="cpu", device_name="", threads=2, params=int(facts.get("params", "1000")),
                macs=int(facts.get("macs", "2000")), check_quantity="logits", check_error=0.0, check_tolerance=1e-4,
                works=(Work(bytes=int(facts.get("bytes", str(1 << 20))), dtype="fp32", vector_flops=1000, count=2),),
                fused=(Work(bytes=1 << 20, dtype="fp32", vector_flops=2000),),
            ),
            warmup_sample_s=[0.02, 0.01, 0.01],
            steps=2,
            held_bytes=int(os.environ.get("FAKE_HELD", "1000")),
            free_bytes=int(os.environ.get("FAKE_FREE", str(1 << 34))),
            graph_breaks=int(facts.get("breaks", "0")),
            compile_cold=task.first,
            answer=Answer(quantity="logits", rows=[[1.0, float(facts.get("answer", "2"))]], tolerances=[1e-3])
            if task.answer
            else None,
        )
    )  # fmt: skip
    taken = 0
    while (line := channel.receive()) is not None:
        if msgspec.json.decode(line, type=Ask).ask == "close":
            switches = int(os.environ.get("FAKE_SWITCHES", "0"))
            seen = Disturbance(window_s=1.0, steps=2 * taken, involuntary_switches=switches)
            channel.send(Closed(disturbance=seen, peak_bytes=1 << 20))
            return
        taken += 1
        if when and taken == 2:
            act(word, channel)
            return
        images = 2 * task.cell.batch_size
        seconds = (
            images
            / speed
            * (1 + task.slowdown)
            * noise.lognormvariate(0.0, float(os.environ.get("FAKE_NOISE", "0.001")))
        )
        time.sleep(float(os.environ.get("FAKE_SLEEP", "0.002")))
        channel.send(
            Taken(sample=Sample(start_s=time.perf_counter(), seconds=seconds, images=images, step_s=[seconds / 2] * 2))
        )


def warm() -> None:
    if "FAKE_PIDS" in os.environ:
        with open(os.environ["FAKE_PIDS"], "a") as file:
            file.write(f"{os.getpid()} {os.environ['VANBENCH_CACHE']}\n")
    if os.environ.get("FAKE_BROKEN"):
        raise SystemExit("this interpreter has no torch")


if __name__ == "__main__":
    nursery.main(sys.argv[1:], warm, serve)
