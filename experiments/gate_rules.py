"""How often does the gate cry wolf, and what does it miss? Simulated, beside the rules of other tools, in one table.

Why: a gate that fails innocent commits is switched off, and one that never fails is worse; both can be counted.
How long: about six minutes on two cores with the default 20,000 trials a figure.
Command:  python experiments/gate_rules.py --out results/<machine> --turns results/<machine>/gate_turns.json.gz
Columns:  gate_rules.csv has a row a noise model, rule and true slowdown (percent of a step's time): `flagged` is the
share of trials that the rule called slower, `flagged_high` its upper 95 % limit (Clopper-Pearson), `passed`,
`inconclusive`, `invalid` the other verdicts' shares where a rule has them, `blocks` the mean count of blocks used.
`gate` is one pass, `gate, confirmed` two independent ones.

The noise models are log-normal in time; the constants of the first ones are fitted to A/A gates of the two-core
machine (docs/measurement.md). `real turns` draws whole blocks from A/A gates recorded there, laps within a block again
at random, and who is base, head and twin by lot.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from vanbench.analysis.gate import Judgement, decide
from vanbench.analysis.observation import Observed
from vanbench.analysis.verdict import Verdict
from vanbench.spec.rules import Rules

Array = npt.NDArray[np.float64]
BLOCKS, LAPS = 24, 22
BLOCK_S = 11.0  # a block's wall time; its turns fill the last five seconds of it
LAP_S = 5.0 / LAPS
ARMS = ("base", "head", "twin")
SLOWDOWNS = (0.0, 0.02, 0.03, 0.05, 0.10)


class Noise(NamedTuple):
    """Standard deviations and sizes, all of the log of time.

    sample: of one sample. tails: its shape. correlation: from one sample of a process to its next. process: from
    process to process. slow_share, slow: the share of processes that land in a slow mode, and how slow that is. drift:
    of the machine, an hour. wander: of the machine within tenths of a second. position: by how much a process that is
    started later is faster. first: by how much the first turn of a lap is slower. runner: from one machine to another,
    which only those who compare with a stored run suffer. block_correlation: from one block's ratio to the next one's.
    """

    name: str
    sample: float = 0.035
    tails: str = "normal"
    correlation: float = 0.0
    process: float = 0.008
    slow_share: float = 0.0
    slow: float = 0.0
    drift: float = 0.0
    wander: float = 0.0
    position: float = 0.0
    first: float = 0.0
    runner: float = 0.0
    block_correlation: float = 0.0


MODELS = (
    Noise("independent", process=0.0),
    Noise("autocorrelated 0.5", correlation=0.5),
    Noise("drift", drift=0.5, wander=0.05),
    Noise("process effect", process=0.015),
    Noise("order effect", position=0.01, first=0.01),
    Noise("heavy tails", tails="t3"),
    Noise("bimodal", tails="stalls", slow_share=0.15, slow=0.10),
    Noise("runner lottery", runner=0.05),
    Noise("blocks correlated 0.5", block_correlation=0.5, process=0.010),
)
STABLE = ("independent", "autocorrelated 0.5", "drift", "process effect")


class Design(NamedTuple):
    """How the gate samples; the tests spoil it on purpose. shuffled: the order of start and of turns is random."""

    blocks: int = BLOCKS
    laps: int = LAPS
    shuffled: bool = True


OURS = Design()


# --- what a machine does --------------------------------------------------------------------------------------------


def samples(noise: Noise, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Errors of the log of single samples, the last axis one process's samples in time."""
    if noise.tails == "t3":
        error = draw.standard_t(3, shape) / math.sqrt(3) * noise.sample
    else:
        error = draw.standard_normal(shape) * noise.sample
    if noise.tails == "stalls":
        error = error + (draw.random(shape) < 0.05) * draw.exponential(0.3, shape)
    if noise.correlation:
        keep = math.sqrt(1 - noise.correlation**2)
        for place in range(1, shape[-1]):
            error[..., place] = noise.correlation * error[..., place - 1] + keep * error[..., place]
    return np.asarray(error)


def processes(noise: Noise, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """What is constant within a process."""
    effect = draw.standard_normal(shape) * noise.process
    return np.asarray(effect + noise.slow * (draw.random(shape) < noise.slow_share))


def turns(noise: Noise, draw: np.random.Generator, trials: int, slowdown: float, design: Design = OURS) -> Array:
    """Log times of samples taken in turns: (trials, blocks, arms, laps)."""
    shape = (trials, design.blocks, 3, design.laps)
    if noise.block_correlation:
        effect = draw.standard_normal(shape[:3]) * noise.process
        keep = math.sqrt(1 - noise.block_correlation**2)
        for place in range(1, design.blocks):
            effect[:, place] = noise.block_correlation * effect[:, place - 1] + keep * effect[:, place]
    else:
        effect = processes(noise, draw, shape[:3])
    fixed = np.array([0, 2, 1])  # base, twin, then the head: the order in which one would write it down
    seats = np.broadcast_to(fixed, shape[:3]).copy()
    places = np.broadcast_to(fixed[:, None], shape).copy()
    if design.shuffled:
        # As the gate does it: a random order of start, mirrored in the next block; of turns, mirrored in the next lap.
        seats = draw.permuted(seats, axis=2)
        seats[:, 1::2] = 2 - seats[:, 0::2][:, : seats[:, 1::2].shape[1]]
        places = draw.permuted(places, axis=2)
        places[..., 1::2] = 2 - places[..., 0::2][..., : places[..., 1::2].shape[-1]]
    log = samples(noise, draw, shape) + effect[..., None] - noise.position * seats[..., None]
    log += noise.first * (places == 0)
    if noise.drift or noise.wander:
        start = np.arange(design.blocks)[None, :, None, None] * BLOCK_S + np.arange(design.laps) * LAP_S
        slope = draw.standard_normal((trials, 1, 1, 1)) * noise.drift / 3600
        log += slope * (start + places * LAP_S / 3)
        log += _wandering(noise.wander, draw, (trials, design.blocks, design.laps * 3), places)
    log[:, :, 1] += math.log1p(slowdown)
    return np.asarray(log)


def _wandering(size: float, draw: np.random.Generator, shape: tuple[int, int, int], places: npt.NDArray[Any]) -> Array:
    """The machine's own speed, which neighbours in time share: correlated 0.9 from one turn to the next."""
    path = draw.standard_normal(shape) * size
    for step in range(1, shape[-1]):
        path[..., step] = 0.9 * path[..., step - 1] + math.sqrt(1 - 0.81) * path[..., step]
    trials, blocks, _ = shape
    by_lap = path.reshape(trials, blocks, -1, 3).transpose(0, 1, 3, 2)
    return np.take_along_axis(by_lap, places, axis=2)


def real_turns(
    pool: Sequence[Array], draw: np.random.Generator, trials: int, slowdown: float, design: Design = OURS
) -> Array:
    """Blocks of A/A gates drawn again: whole blocks, their laps, and who is who."""
    log = np.empty((trials, design.blocks, 3, design.laps))
    chosen = draw.integers(len(pool), size=(trials, design.blocks))
    for index, block in enumerate(pool):
        where = chosen == index
        count = int(where.sum())
        laps = draw.integers(block.shape[1], size=(count, 1, design.laps))
        arms = draw.permuted(np.broadcast_to(np.arange(3)[:, None], (count, 3, 1)).copy(), axis=1)
        log[where] = block[arms, laps]
    log[:, :, 1] += math.log1p(slowdown)
    return log


def pool_of(path: Path) -> list[Array]:
    """Log seconds an image, (arms, laps), of each undisturbed block of the A/A gates in gate_turns.json.gz."""
    gates = msgspec.json.decode(gzip.decompress(path.read_bytes()))["gates"]
    return [
        np.log(np.asarray(block["turns"], dtype=float))
        for gate in gates
        if not gate["slowdown"]
        for blocks in gate["passes"]
        for block in blocks
        if not block["void"]
    ]


# --- what the rules make of it --------------------------------------------------------------------------------------


def observations(log: Array) -> tuple[Array, Array]:
    """(change, twin) of each block, as `analysis.gate.observe` makes them of one."""
    cut = math.floor(log.shape[-1] * 0.25)

    def middle_half(one: int, other: int) -> Array:
        laps = np.sort(log[:, :, one] - log[:, :, other], axis=-1)
        return np.asarray(laps[..., cut : log.shape[-1] - cut].mean(-1))

    return (middle_half(0, 1) + middle_half(2, 1)) / 2, middle_half(0, 2)


def verdicts(change: Array, twin: Array, rules: Rules) -> list[Judgement]:
    """The gate's own judgement of each trial."""
    found = []
    for one, other in zip(change.tolist(), twin.tolist(), strict=True):
        judged = decide([Observed(a, b) for a, b in zip(one, other, strict=True)], rules, over=True)
        assert judged is not None
        found.append(judged)
    return found


def one_after_the_other(
    noise: Noise, draw: np.random.Generator, trials: int, slowdown: float, count: int, each: int
) -> tuple[Array, Array]:
    """Log times of a base run and, a minute later, a head run: (trials, processes, samples) each."""
    both = []
    for arm in range(2):
        shape = (trials, count, each)
        log = samples(noise, draw, shape) + processes(noise, draw, shape[:2])[..., None]
        log += draw.standard_normal((trials, 1, 1)) * noise.runner
        log += draw.standard_normal((trials, 1, 1)) * noise.drift * math.sqrt(60 / 3600) * (arm == 1)
        log += draw.standard_normal((trials, count, 1)) * noise.wander / math.sqrt(each / 3)
        both.append(log + (math.log1p(slowdown) if arm else 0.0))
    if noise.position:
        both[1] = both[1] - noise.position
    return both[0], both[1]


def _pyperf(draw: np.random.Generator, noise: Noise, trials: int, slowdown: float) -> npt.NDArray[np.bool_]:
    base, head = one_after_the_other(noise, draw, trials, slowdown, 20, 3)
    a, b = np.exp(base.reshape(trials, -1)), np.exp(head.reshape(trials, -1))
    return np.asarray((stats.ttest_ind(b, a, axis=1).pvalue < 0.05) & (b.mean(1) > a.mean(1)))


def _google(draw: np.random.Generator, noise: Noise, trials: int, slowdown: float) -> npt.NDArray[np.bool_]:
    base, head = (np.exp(x[:, 0]) for x in one_after_the_other(noise, draw, trials, slowdown, 1, 10))
    tested = stats.mannwhitneyu(head, base, axis=1, method="asymptotic")
    return np.asarray((tested.pvalue < 0.05) & (head.mean(1) > base.mean(1)))


def _criterion(draw: np.random.Generator, noise: Noise, trials: int, slowdown: float) -> npt.NDArray[np.bool_]:
    base, head = (np.exp(x[:, 0]) for x in one_after_the_other(noise, draw, trials, slowdown, 1, 100))
    tested = stats.ttest_ind(head, base, axis=1, equal_var=False)
    change = head.mean(1) / base.mean(1) - 1
    error = np.sqrt(head.var(1, ddof=1) / 100 + base.var(1, ddof=1) / 100) / base.mean(1)
    return np.asarray((tested.pvalue < 0.05) & (change - 1.96 * error > 0.01))


def _above(share: float, each: int) -> Callable[..., npt.NDArray[np.bool_]]:
    def rule(draw: np.random.Generator, noise: Noise, trials: int, slowdown: float) -> npt.NDArray[np.bool_]:
        base, head = (np.exp(x[:, 0]) for x in one_after_the_other(noise, draw, trials, slowdown, 1, each))
        return np.asarray(head.mean(1) / base.mean(1) - 1 > share)

    return rule


# Samples of 50 to 100 ms; each tool with the counts of its defaults, base first, then head.
RIVALS: dict[str, Callable[..., npt.NDArray[np.bool_]]] = {
    "pyperf compare_to": _pyperf,
    "google/benchmark compare.py": _google,
    "criterion": _criterion,
    "pytest-benchmark mean:5%": _above(0.05, 20),
    "fixed 7 %": _above(0.07, 20),
}


# --- the table ------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A row of gate_rules.csv."""

    noise: str
    rule: str
    slowdown_percent: float
    trials: int
    flagged: float
    flagged_high: float
    passed: float | None = None
    inconclusive: float | None = None
    invalid: float | None = None
    blocks: float | None = None


def upper(hits: int, trials: int) -> float:
    """The one-sided upper 95 % limit of a share (Clopper-Pearson)."""
    return 1.0 if hits == trials else float(stats.beta.ppf(0.95, hits + 1, trials - hits))


def gate_lines(noise: str, slowdown: float, judged: Sequence[Judgement]) -> list[Line]:
    """The gate's lines: one pass, and two of which both must say so."""
    trials = len(judged)
    share = {verdict: sum(each.verdict is verdict for each in judged) for verdict in Verdict}
    hits = share[Verdict.REGRESSED]
    pairs = [a.verdict is b.verdict is Verdict.REGRESSED for a, b in zip(judged[0::2], judged[1::2], strict=False)]
    return [
        Line(
            noise,
            "gate",
            100 * slowdown,
            trials,
            hits / trials,
            upper(hits, trials),
            share[Verdict.PASS] / trials,
            share[Verdict.INCONCLUSIVE] / trials,
            share[Verdict.INVALID] / trials,
            sum(each.blocks for each in judged) / trials,
        ),
        Line(
            noise, "gate, confirmed", 100 * slowdown, len(pairs), sum(pairs) / len(pairs), upper(sum(pairs), len(pairs))
        ),
    ]


def simulate(trials: int, pool: Sequence[Array], seed: int = 0) -> list[Line]:
    """Every model, slowdown and rule."""
    lines: list[Line] = []
    rules = Rules()
    names = [*(model.name for model in MODELS), *(["real turns"] if pool else [])]
    for place, name in enumerate(names):
        for slowdown in SLOWDOWNS:
            draw = np.random.default_rng([seed, place, round(1000 * slowdown)])
            judged: list[Judgement] = []
            while len(judged) < trials:
                part = min(2000, trials - len(judged))
                if name == "real turns":
                    log = real_turns(pool, draw, part, slowdown)
                else:
                    log = turns(MODELS[place], draw, part, slowdown)
                judged += verdicts(*observations(log), rules)
            lines += gate_lines(name, slowdown, judged)
            if name != "real turns":
                for rule, flags in RIVALS.items():
                    hits = int(flags(draw, MODELS[place], trials, slowdown).sum())
                    lines.append(Line(name, rule, 100 * slowdown, trials, hits / trials, upper(hits, trials)))
    return lines


def table(lines: Sequence[Line]) -> str:
    """Markdown: a row a noise model and rule, a column a true slowdown, in percent of trials flagged."""
    by_key = {(line.noise, line.rule, line.slowdown_percent): line for line in lines}
    columns = sorted({line.slowdown_percent for line in lines})
    text = ["| noise | rule | " + " | ".join(f"{c:g} %" for c in columns) + " | upper limit at 0 % |"]
    text.append("| --- | --- |" + " ---: |" * (len(columns) + 1))
    for noise, rule in dict.fromkeys((line.noise, line.rule) for line in lines):
        cells = [by_key[noise, rule, column] for column in columns]
        shown = " | ".join(f"{100 * cell.flagged:.2f}" for cell in cells)
        text.append(f"| {noise} | {rule} | {shown} | {100 * cells[0].flagged_high:.3f} |")
    return "\n".join(text)


def page(rows: Sequence[dict[str, str]]) -> str:
    """The two tables of docs/measurement.md, from the rows of gate_rules.csv."""
    share = {(row["noise"], row["rule"], float(row["slowdown_percent"])): 100 * float(row["flagged"]) for row in rows}
    innocent = [row for row in rows if (row["rule"], row["slowdown_percent"]) == ("gate", "0.0")]
    limit = {row["noise"]: 100 * float(row["flagged_high"]) for row in innocent}
    names = list(dict.fromkeys(row["noise"] for row in rows))
    columns = [100 * slowdown for slowdown in SLOWDOWNS]
    text = ["| noise | 0 % | limit | " + " | ".join(f"{column:g} %" for column in columns[1:]) + " |"]
    text.append("| --- |" + " ---: |" * (len(columns) + 1))
    for name in names:
        cells = [f"{share[name, 'gate', column]:.2f}" for column in columns]
        text.append(f"| {name} | {' | '.join([cells[0], f'{limit[name]:.3f}', *cells[1:]])} |")
    text += ["", "| noise | " + " | ".join(RIVALS) + " |", "| --- |" + " ---: |" * len(RIVALS)]
    for name in names:
        if (name, next(iter(RIVALS)), 0.0) in share:
            cells = [f"{share[name, rule, 0.0]:.1f}, {share[name, rule, 5.0]:.0f}" for rule in RIVALS]
            text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text)


def main() -> None:
    """Simulate, print the table, keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=Path, help="gate_turns.json.gz of A/A gates, for the model `real turns`")
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lines = simulate(arguments.trials, pool_of(arguments.turns) if arguments.turns else [], arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "gate_rules.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Line._fields)
        writer.writerows(["" if value is None else value for value in line] for line in lines)
    print(table(lines))


if __name__ == "__main__":
    main()
