"""Are vanbench's ceilings as high as what others reach? Against an OpenMP STREAM and NumPy's matrix product, in turns.

Why: a roof that is too low makes everything under it look good, and a bound that can be beaten is none.
How long: five minutes on two CPU cores.
Command: python experiments/ceilings_against_stream.py OUT.csv
Columns: stream or product, its working set, the two rates (bytes/s or FLOP/s, best of all turns), and `ratio`: ours
over theirs, turn by turn, with its 95 % interval (Student's t over pairs). The lower end must be at least 0.95.

The other STREAM is a program of its own: plain loops, `#pragma omp parallel for`, the compiler's own stores, arrays
touched first by the threads that use them; a repetition is one parallel region, so that small arrays do not pay for
starting threads. The other product is NumPy's, with the BLAS it brings. Each is started once
and sleeps until its turn; of a turn the best of five repetitions counts, on both sides.
"""

from __future__ import annotations

import csv
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from vanbench.kernels import roofs
from vanbench.kernels.compiled import compiler
from vanbench.stats import t_half_width

PAIRS = 80
THREADS = torch.get_num_threads()

STREAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>
static float *a, *b, *c;
int main(void) {
    char kind[16]; long bytes;
    long most = 1L << 28;
    a = aligned_alloc(64, most * 4); b = aligned_alloc(64, most * 4); c = aligned_alloc(64, most * 4);
    #pragma omp parallel for schedule(static)
    for (long i = 0; i < most; i++) { a[i] = 1; b[i] = 2; c[i] = 0; }
    while (scanf("%15s %ld", kind, &bytes) == 2) {
        int arrays = !strcmp(kind, "read") || !strcmp(kind, "update") ? 1 : !strcmp(kind, "copy") ? 2 : 3;
        int moved = !strcmp(kind, "update") ? 2 : arrays;
        long n = bytes / 4 / arrays, passes = 1 + 100000000L / bytes;
        double best = 1e30; float total = 0;
        for (int r = 0; r < 5; r++) {
            double start = omp_get_wtime();
            #pragma omp parallel reduction(+:total)
            for (long p = 0; p < passes; p++) {
                if (!strcmp(kind, "read")) {
                    float sum = 0;
                    #pragma omp for schedule(static) nowait
                    for (long i = 0; i < n; i++) sum += a[i];
                    total += sum;
                } else if (!strcmp(kind, "copy")) {
                    #pragma omp for simd schedule(static) nowait
                    for (long i = 0; i < n; i++) c[i] = a[i];
                } else if (!strcmp(kind, "update")) {
                    #pragma omp for simd schedule(static) nowait
                    for (long i = 0; i < n; i++) c[i] = 3.0f - c[i];
                } else if (!strcmp(kind, "add")) {
                    #pragma omp for simd schedule(static) nowait
                    for (long i = 0; i < n; i++) c[i] = a[i] + b[i];
                } else {
                    #pragma omp for simd schedule(static) nowait
                    for (long i = 0; i < n; i++) c[i] = a[i] + 3.0f * b[i];
                }
                __asm__ volatile("" ::: "memory");
            }
            double took = (omp_get_wtime() - start) / passes;
            if (took < best) best = took;
        }
        printf("%.6e %g\n", 4.0 * n * moved / best, total);
        fflush(stdout);
    }
    return 0;
}
"""

NUMPY = """
import sys, time
import numpy
n = 2048
a, b = (numpy.random.rand(n, n).astype(numpy.float32) for _ in range(2))
for line in sys.stdin:
    best = 1e30
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    print(2.0 * n**3 / best, flush=True)
"""


class Other:
    """A program that answers each line with a rate."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(THREADS)}
        environment["OPENBLAS_NUM_THREADS"] = str(THREADS)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, line: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline().split()[0])


def ours_of(kind: str, size: int, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> Callable[[], float]:
    """One turn of our stream: the better of its two kinds of stores, as `vanbench ceilings` takes the better."""
    length = size // 4 // roofs.KINDS[kind]
    inner = 1 + 100_000_000 // size

    def run() -> float:
        rates = []
        for bypass in (False, True) if kind not in ("read", "update") and size >= 4 << 20 else (False,):
            seconds, moved = roofs.stream(kind, a, b, c, length, bypass=bypass, inner=inner, repeats=5, threads=THREADS)
            rates.append(moved * inner / min(seconds))
        return max(rates)

    return run


def ours_of_product() -> Callable[[], float]:
    """One turn of torch's product."""
    from time import perf_counter

    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)

    def once() -> float:
        start = perf_counter()
        torch.mm(a, b)
        return perf_counter() - start

    return lambda: 2.0 * 2048**3 / min(once() for _ in range(5))


def main() -> None:
    """Take the turns and write the table."""
    out = Path(sys.argv[1])
    path = compiler()
    assert path is not None, "this comparison needs a C compiler"
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "stream.c", Path(folder) / "stream"
        source.write_text(STREAM)
        flags = ["-O3", "-march=native", "-fopenmp", "-ffast-math"]
        subprocess.run([path, *flags, "-o", str(program), str(source)], check=True)
        stream, numpy = Other([str(program)]), Other([sys.executable, "-c", NUMPY])
        a, b, c = (torch.empty(1 << 28) for _ in range(3))
        for array, value in ((a, 1.0), (b, 2.0), (c, 0.0)):
            roofs.fill(array, value, THREADS)
        plans: list[tuple[str, int, Callable[[], float], Callable[[], float]]] = []
        for size in (1 << 20, 32 << 20, 512 << 20):
            plans += [
                (kind, size, ours_of(kind, size, a, b, c), partial(stream.ask, f"{kind} {size}"))
                for kind in roofs.KINDS
            ]
        plans.append(("matrix product fp32", 3 * 4 * 2048**2, ours_of_product(), partial(numpy.ask, "go")))
        generator = random.Random(0)
        seen: list[list[tuple[float, float]]] = [[] for _ in plans]
        for number in range(PAIRS):
            order = list(range(len(plans)))
            generator.shuffle(order)
            for i in order:
                _, _, ours, theirs = plans[i]
                if number % 2:
                    second = theirs()
                    seen[i].append((ours(), second))
                else:
                    first = ours()
                    seen[i].append((first, theirs()))
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["roof", "bytes", "threads", "ours", "theirs", "ratio", "ratio_low", "ratio_high", "pairs"])
        for (kind, size, _, _), pairs in zip(plans, seen, strict=True):
            logs = [math.log(mine / other) for mine, other in pairs]
            half = t_half_width(logs) or 0.0
            middle = statistics.fmean(logs)
            best = [max(pair[side] for pair in pairs) for side in (0, 1)]
            row = [kind, size, THREADS, *(f"{rate:.4g}" for rate in best)]
            writer.writerow([*row, *(f"{math.exp(middle + s * half):.4f}" for s in (0, -1, 1)), len(pairs)])
    print(out.read_text())


if __name__ == "__main__":
    main()
