"""Two stored runs side by side: rows meet their like, intervals are the textbook's, and no winner is called without
one machine and an interval.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from builders import make_environment, make_facts, make_record, make_round, make_sweep
from scipy import stats

from vanbench.analysis.ratio import welch_half_width
from vanbench.cli.app import main
from vanbench.errors import UserError
from vanbench.record.measurement import Facts
from vanbench.record.record import Failed, Outcome, Stack
from vanbench.record.store import Store
from vanbench.report.comparison import COMPARISON_COLUMNS, Pair, pairs_of
from vanbench.report.comparison_plot import draw_comparison
from vanbench.report.drawing import encode
from vanbench.report.stored import Entry, Stored, read_stored
from vanbench.report.table import Row
from vanbench.report.write import write_table

TIMM = Path(__file__).parent / "timm"
FAILED = Failed(kind="out_of_memory", message="no room", rerun="vanbench run")
STACK = Stack(machine_key="0123456789ab", device_name="Example CPU", torch_version="2.15.0", vanbench_version="0.1.0")


def _run(
    path: Path,
    models: Sequence[str] = ("van_b0",),
    *,
    rates: Sequence[float] = (100.0, 101.0, 99.0, 100.5, 99.5),
    outcomes: dict[str, Outcome] | None = None,
    stack: Stack = STACK,
    facts: Facts | None = None,
    **axes: Sequence[object],
) -> Path:
    """A run directory of batch 8; `rates` are images/s of its rounds, the same for each cell that is measured."""
    sweep = make_sweep(models, **{"batch_size": (8,), **axes})
    with Store.create(path, sweep, make_environment()) as store:
        for cell in sweep.cells():
            outcome = (outcomes or {}).get(cell.model)
            made = [
                make_round(f"r{i}", [cell.batch_size / rate] * 4, images=cell.batch_size)
                for i, rate in enumerate(rates)
            ]
            record = make_record(cell, [] if outcome else made, outcome, facts=facts)
            store.save(msgspec.structs.replace(record, stack=stack))
        write_table(path, sweep, store.environment, store.in_order())
    return path


def _threads(entry: Entry) -> int | str:
    assert entry.record is not None
    return entry.record.cell.threads


def _times(rates: Sequence[float], factor: float) -> list[float]:
    return [rate * factor for rate in rates]


RATES = (100.0, 101.0, 99.0, 100.5, 99.5)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Base, and a head whose rounds are 10 % faster, of which each wobbles by a percent."""
    return _run(tmp_path / "base"), _run(tmp_path / "head", rates=_times(RATES, 1.1))


def _pairs(base: Path, head: Path) -> list[Pair]:
    return pairs_of(read_stored(base), read_stored(head))


def _printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["compare", *map(str, words)]) == 0
    return capsys.readouterr().out


# --- the ratio and its interval -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "head"),
    [
        ((100, 104, 98, 101, 97), (120, 118, 125, 119, 117)),
        ((100, 101), (99, 140, 80, 100)),
        ((5, 5, 6), (5, 5.1, 5.01)),
    ],
)
def test_from_two_run_directories_the_interval_is_welchs_on_logarithms_of_rounds(
    base: Sequence[float], head: Sequence[float], tmp_path: Path
) -> None:
    (pair,) = _pairs(_run(tmp_path / "base", rates=base), _run(tmp_path / "head", rates=head))
    logs = [np.log(np.asarray(each, dtype=float)) for each in (head, base)]
    theirs = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    half = (theirs.high - theirs.low) / 2
    assert pair.ratio is not None
    assert pair.ratio.low is not None
    assert pair.ratio.high is not None
    # All images over all time: rounds of the same number of images make the harmonic mean.
    assert pair.ratio.value == pytest.approx(stats.hmean(head) / stats.hmean(base))
    assert math.log(pair.ratio.high / pair.ratio.value) == pytest.approx(half)
    assert math.log(pair.ratio.value / pair.ratio.low) == pytest.approx(half)
    assert pair.interval_from == "rounds"


def test_rounds_that_do_not_vary_have_an_interval_of_no_width() -> None:
    assert welch_half_width([1.0, 1.0], [2.0, 2.0, 2.0]) == 0
    # Squares of such variances are below the smallest number.
    tiny = welch_half_width([0.0, 1e-90], [0.0, 1e-90])
    assert tiny == pytest.approx(4.302652729911275 * 1e-90 / math.sqrt(2))


def test_welchs_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(5)
    draws = [(rng.normal(0, 0.01, 5), rng.normal(0, 0.04, 8)) for _ in range(3000)]
    held = [abs(head.mean() - base.mean()) <= welch_half_width(list(base), list(head)) for base, head in draws]
    assert 0.935 < np.mean(held) < 0.965


def test_from_two_tables_the_interval_is_made_of_theirs_in_quadrature(two: tuple[Path, Path]) -> None:
    base, head = (path / "results.csv" for path in two)
    (pair,) = _pairs(base, head)
    rows = [read_stored(path).entries[0].row for path in (base, head)]
    halves = [math.log(float(row["images_per_s_high"] or 0) / float(row["images_per_s_low"] or 0)) / 2 for row in rows]
    assert pair.ratio is not None
    assert pair.ratio.high is not None
    assert pair.ratio.value == pytest.approx(1.1)
    assert math.log(pair.ratio.high / pair.ratio.value) == pytest.approx(math.sqrt(halves[0] ** 2 + halves[1] ** 2))
    assert pair.interval_from == "intervals"


def test_a_run_directory_beside_a_table_counts_with_its_interval(two: tuple[Path, Path]) -> None:
    (mixed,), (tables,) = _pairs(two[0], two[1] / "results.csv"), _pairs(two[0] / "results.csv", two[1] / "results.csv")
    assert mixed.interval_from == "intervals"
    assert mixed.ratio == pytest.approx(tables.ratio)


def test_swapped_sides_give_the_inverse_ratio_and_the_mirrored_words(two: tuple[Path, Path]) -> None:
    (there,), (back,) = _pairs(*two), _pairs(*reversed(two))
    assert there.ratio is not None
    assert back.ratio is not None
    assert (there.finding, back.finding) == ("head faster", "base faster")
    inverse = [1 / float(end or 0) for end in (there.ratio.value, there.ratio.high, there.ratio.low)]
    assert list(back.ratio) == pytest.approx(inverse)


def test_an_interval_that_holds_1_shows_no_difference(tmp_path: Path) -> None:
    (pair,) = _pairs(_run(tmp_path / "base"), _run(tmp_path / "head", rates=_times(RATES, 1.005)))
    assert pair.ratio is not None
    assert pair.ratio.value > 1
    assert pair.finding == "no difference shown"


def test_one_round_gives_no_interval_and_no_winner(tmp_path: Path) -> None:
    (pair,) = _pairs(_run(tmp_path / "base", rates=(100,)), _run(tmp_path / "head", rates=(300, 301)))
    assert pair.ratio is not None
    assert pair.ratio.value == pytest.approx(2 * 300 * 301 / 601 / 100)
    assert pair.ratio[1:] == (None, None)
    assert (pair.finding, pair.interval_from) == ("no interval", "")


@pytest.mark.parametrize(
    ("column", "text"), [("images_per_s_low", ""), ("images_per_s_low", "0"), ("images_per_s_high", "")]
)
def test_a_broken_interval_in_a_table_is_none(column: str, text: str, two: tuple[Path, Path]) -> None:
    with open(two[0] / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    with open(two[0] / "broken.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerow({**lines[0], column: text})
    (pair,) = _pairs(two[0] / "broken.csv", two[1])
    assert pair.finding == "no interval"


# --- machines and stacks --------------------------------------------------------------------------------------------


def test_across_machines_the_ratio_is_given_and_no_winner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = msgspec.structs.replace(STACK, machine_key="ffffffffffff", device_name="Other CPU")
    base, head = _run(tmp_path / "base"), _run(tmp_path / "head", rates=_times(RATES, 3), stack=other)
    (pair,) = _pairs(base, head)
    assert pair.finding == "another machine"
    assert pair.ratio is not None
    assert pair.ratio.low is not None
    assert pair.ratio.low > 2.9
    text = _printed(capsys, base, head)
    assert "another machine" in text
    assert "faster" not in text
    assert "differs throughout: device_name Example CPU -> Other CPU" in text


def test_a_table_that_names_no_machine_is_of_another_one(two: tuple[Path, Path]) -> None:
    for path in two:
        table = path / "results.csv"
        table.write_text(table.read_text().replace("0123456789ab", ""))
    assert [pair.finding for pair in _pairs(two[0] / "results.csv", two[1] / "results.csv")] == ["another machine"]


def test_what_differs_of_the_stack_is_said_once_if_it_differs_throughout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = msgspec.structs.replace(STACK, torch_version="2.16.0", vanbench_version="0.2.0")
    base = _run(tmp_path / "base", ("van_b0", "convnext_tiny"))
    head = _run(tmp_path / "head", ("van_b0", "convnext_tiny"), stack=newer, facts=make_facts(threads=1))
    for pair in _pairs(base, head):
        assert pair.differences == [
            "threads 2 -> 1",
            "torch_version 2.15.0 -> 2.16.0",
            "vanbench_version 0.1.0 -> 0.2.0",
        ]
        assert pair.finding == "no difference shown"
    text = _printed(capsys, base, head)
    for difference in ("threads 2 -> 1", "torch_version 2.15.0 -> 2.16.0", "vanbench_version 0.1.0 -> 0.2.0"):
        assert text.count(difference) == 1


def test_what_differs_in_one_pair_stands_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def changed(row: Row) -> Row:
        return {**row, "torch_version": "2.16.0"} if row["model"] == "van_b0" else row

    base = read_stored(_run(tmp_path / "base", ("van_b0", "resnet18")))
    head = Stored(base.path, [Entry(each.name, changed(each.row), each.record) for each in base.entries])
    assert [pair.differences for pair in pairs_of(base, head)] == [["torch_version 2.15.0 -> 2.16.0"], []]


# --- which rows belong together -------------------------------------------------------------------------------------


def test_rows_are_paired_by_key_even_where_only_threads_tell_them_apart(tmp_path: Path) -> None:
    base = _run(tmp_path / "base", threads=(1, 2))
    head = _run(tmp_path / "head", threads=(2, 1))
    pairs = _pairs(base, head)
    assert len(pairs) == 2
    assert all(pair.base and pair.head and pair.base.row["key"] == pair.head.row["key"] for pair in pairs)


def test_rows_of_different_keys_are_paired_by_their_cell_if_only_one_could_be_meant(tmp_path: Path) -> None:
    base, one = _run(tmp_path / "base", threads=(1,)), _run(tmp_path / "one", threads=(2,))
    (pair,) = _pairs(base, one)
    assert pair.base is not None
    assert pair.head is not None
    assert pair.base.row["key"] != pair.head.row["key"]


def test_where_several_rows_could_be_meant_none_is_paired_and_all_are_listed(tmp_path: Path) -> None:
    base = read_stored(_run(tmp_path / "base", ("van_b0", "resnet18"), threads=(1,)))
    both = read_stored(_run(tmp_path / "head", ("van_b0", "resnet18"), threads=(2, 4)))
    head = both._replace(
        entries=[each for each in both.entries if each.row["model"] == "van_b0" or _threads(each) == 4]
    )
    pairs = pairs_of(base, head)
    why = "several rows of a table could be meant"
    assert [(pair.finding, pair.why) for pair in pairs if pair.base is None or pair.head is None] == [
        ("only in base", why),
        ("only in head", why),
        ("only in head", why),
    ]
    assert [pair.name for pair in pairs if pair.base is not None and pair.head is not None] == ["resnet18 bs8 fp32"]
    with pytest.raises(UserError, match="several rows of a table could be meant"):
        pairs_of(base, both)


def test_rows_of_one_side_are_listed_and_never_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = _run(tmp_path / "base", ("van_b0", "resnet18"))
    head = _run(tmp_path / "head", ("van_b0", "convnext_tiny"))
    text = _printed(capsys, base, head, "--out", tmp_path / "out")
    for said in ("only in base: resnet18 bs8 fp32", "only in head: convnext_tiny bs8 fp32"):
        assert said in text
    assert "1 pair: 1 no difference shown; without a partner: 1 only in base, 1 only in head" in text
    with open(tmp_path / "out" / "compare.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["model"], line["finding"]) for line in lines] == [
        ("van_b0", "no difference shown"),
        ("resnet18", "only in base"),
        ("convnext_tiny", "only in head"),
    ]
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "| resnet18 bs8 fp32 | only in base |" in page
    assert r"| convnext\_tiny bs8 fp32 | only in head |" in page


def test_a_failed_side_is_a_pair_without_a_ratio_and_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, head = _run(tmp_path / "base"), _run(tmp_path / "head", outcomes={"van_b0": FAILED})
    (pair,) = _pairs(base, head)
    assert (pair.ratio, pair.finding, pair.differences) == (None, "head failed", [])
    text = _printed(capsys, base, head, "--out", tmp_path / "out")
    assert "head failed" in text
    assert "out_of_memory" in text
    assert not (tmp_path / "out" / "plots" / "compare.png").exists()
    assert "![" not in (tmp_path / "out" / "compare.md").read_text()


def test_a_long_list_of_rows_without_a_partner_is_counted_on_the_screen_and_whole_in_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head_line = (TIMM / "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv").read_text().splitlines()[0]
    for name, count in (("few", 1), ("many", 100)):
        lines = [f"model_{i},224,100,1,64,1.0,1.0,1.0" for i in range(count)]
        (tmp_path / f"{name}.csv").write_text("\n".join([head_line, *lines]) + "\n")
    text = _printed(capsys, tmp_path / "few.csv", tmp_path / "many.csv", "--out", tmp_path / "out")
    assert len(re.findall(r"only in head: model_\d+ ", text)) == 20
    assert "only in head: 79 more" in text
    assert (tmp_path / "out" / "compare.csv").read_text().count("only in head") == 99
    assert (tmp_path / "out" / "compare.md").read_text().count("| only in head |") == 99


def test_a_published_table_stands_beside_a_run_with_its_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "benchmark-infer-fp32-nchw-pt240-cpu-i7_12700h-dynamo.csv"
    published.write_text((TIMM / published.name).read_text())
    run = _run(tmp_path / "run", ("convnext_tiny",), batch_size=(1,), compile=("default",))
    (pair,) = [pair for pair in _pairs(published, run) if pair.head is not None]
    assert pair.ratio is not None
    assert pair.ratio.value == pytest.approx(stats.hmean(RATES) / 26.62)
    assert pair.ratio[1:] == (None, None)
    assert pair.finding == "another machine"
    text = _printed(capsys, published, run)
    assert "! made by timm's benchmark script, and published by timm unless you ran it" in text
    assert "only in base: resnet50 bs1 fp32 compile=default" in text
    assert "device_name i7-12700H -> Example CPU" in text


def test_two_tables_without_a_common_cell_are_a_mistake_that_names_the_columns(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    published = TIMM / "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv"
    assert main(["compare", str(two[0]), str(published)]) == 2
    said = capsys.readouterr().err
    assert "no cell in common" in said
    assert "precision (fp32 against amp-fp16)" in said
    assert "memory_format (contiguous against channels_last)" in said
    assert "task" not in said


# --- what is printed and written ------------------------------------------------------------------------------------


def test_what_is_said_is_always_advisory_and_a_slowdown_exits_with_0(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(_printed(capsys, two[1], two[0], "--out", tmp_path / "out").split())
    assert "base faster" in text
    page = " ".join((tmp_path / "out" / "compare.md").read_text().split())
    document = json.loads(_printed(capsys, two[1], two[0], "--json"))
    for said in (text, page, document["advisory"]):
        assert "Advisory: these runs were not measured side by side" in said
        assert "vanbench gate --base ARM --head ARM" in said
    assert "0.909" in text
    assert "| advisory |" in page
    assert "advisory" in text.partition("base faster")[0]


def test_the_spreads_that_the_advice_names_are_the_measured_ones() -> None:
    from vanbench.report.comparison_text import ADVISORY

    page = (Path(__file__).parent.parent / "docs" / "measurement.md").read_text()
    table = page.partition("### Ten runs in a row")[2].partition("\n###")[0]
    spreads = re.findall(r"\| ([\d.]+) %[^|]*\| ([\d.]+) and ([\d.]+) % \|", table)
    ratios = [float(ratio) for ratio, _, _ in spreads]
    rates = [float(rate) for _, *both in spreads for rate in both]
    assert f"spread by {min(rates):.0f} to {max(rates):.0f} %" in ADVISORY
    assert f"by {min(ratios):.0f} to {max(ratios):.0f} %" in ADVISORY


def test_the_three_outputs_carry_the_same_figures(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _printed(capsys, *two, "--out", tmp_path / "out")
    written = [Path(line) for line in text.splitlines() if line.startswith(str(tmp_path))]
    assert sorted(path.name for path in written) == ["compare.csv", "compare.md", "compare.png", "compare.svg"]
    with open(tmp_path / "out" / "compare.csv", newline="") as file:
        reader = csv.DictReader(file)
        (line,) = reader
    assert reader.fieldnames == [column.name for column in COMPARISON_COLUMNS]
    (row,) = json.loads(_printed(capsys, *two, "--json"))["rows"]
    assert float(line["ratio"]) == pytest.approx(row["ratio"], rel=1e-9)
    assert (
        (line["finding"], line["interval_from"]) == (row["finding"], row["interval_from"]) == ("head faster", "rounds")
    )
    assert float(line["head_images_per_s"]) / float(line["base_images_per_s"]) == pytest.approx(float(line["ratio"]))
    assert "1.100 ± 0.013" in text
    assert "1.100 ± 0.013" in (tmp_path / "out" / "compare.md").read_text()


def test_flags_of_both_sides_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = make_facts(channels_last_share=0.1)
    base = _run(tmp_path / "base", memory_format=("channels_last",), facts=lost)
    head = _run(tmp_path / "head", memory_format=("channels_last",))
    assert "base: layout_lost" in _printed(capsys, base, head)
    (row,) = json.loads(_printed(capsys, base, head, "--json"))["rows"]
    assert "layout_lost" in row["base_flags"]
    assert row["head_flags"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "nowhere"], "no such run directory or results.csv: nowhere"),
        (["base"], "Missing argument 'head'"),
        (["base", "empty"], "is not a run directory"),
        (["base", "other.csv"], "is not a results.csv of vanbench"),
        (["base", "base", "--out", "base/results.csv"], "cannot make"),
        (["base", "base", "--jsn"], "did you mean '--json'?"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str], said: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(in_tmp / "base")
    (in_tmp / "empty").mkdir()
    (in_tmp / "other.csv").write_text("a,b\n1,2\n")
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err


# --- the figure -----------------------------------------------------------------------------------------------------


def _drawn(base: Path, head: Path) -> tuple[str, bytes]:
    sides = read_stored(base), read_stored(head)
    drawn = draw_comparison(*sides, pairs_of(*sides))
    assert drawn.figure is not None, drawn.reason
    files = encode(drawn.figure)
    return files["svg"].decode(), files["png"]


def test_the_figure_names_every_pair_the_gains_on_top_and_says_that_it_is_advisory(tmp_path: Path) -> None:
    head_line = (TIMM / "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv").read_text().splitlines()[0]
    for name, factor in (("base", 1), ("head", 2)):
        lines = [f"model_{i},224,{100 * (factor if i == 1 else 1)},1,64,1.0,1.0,1.0" for i in range(3)]
        (tmp_path / f"{name}.csv").write_text("\n".join([head_line, *lines]) + "\n")
    svg, png = _drawn(tmp_path / "base.csv", tmp_path / "head.csv")
    words = re.findall(r">([^<>]+)</text>", svg)
    assert [word for word in words if word.startswith("model_")][-1].startswith("model_1 ")
    assert "Advisory: two runs that were not measured side by side." in words
    assert "head / base (right of 1: head is faster)" in words
    assert any(word.startswith("Hollow: another machine") for word in words)
    assert len(png) > 5000


def test_a_dot_is_filled_only_where_a_winner_could_be_called(two: tuple[Path, Path], tmp_path: Path) -> None:
    svg, _ = _drawn(*two)
    assert "Hollow" not in svg
    other = msgspec.structs.replace(STACK, machine_key="ffffffffffff")
    svg, _ = _drawn(two[0], _run(tmp_path / "other", stack=other))
    assert "Hollow" in svg


def test_of_very_many_pairs_the_figure_leaves_out_the_middle_and_says_how_many(tmp_path: Path) -> None:
    head_line = (TIMM / "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv").read_text().splitlines()[0]
    of: dict[str, Callable[[int], float]] = {"base": lambda i: 100, "head": lambda i: 100 + i}
    for name, rate in of.items():
        lines = [f"model_{i},224,{rate(i)},1,64,1.0,1.0,1.0" for i in range(100)]
        (tmp_path / f"{name}.csv").write_text("\n".join([head_line, *lines]) + "\n")
    svg, _ = _drawn(tmp_path / "base.csv", tmp_path / "head.csv")
    named = {int(found) for found in re.findall(r">model_(\d+) ", svg)}
    assert named == {*range(40), *range(60, 100)}
    assert "20 pairs with ratios between those shown are left out." in svg


def test_a_figure_of_nothing_says_why() -> None:
    assert (
        draw_comparison(Stored(Path("a"), []), Stored(Path("b"), []), []).reason == "no pair was measured on both sides"
    )


def test_the_page_on_compare_lists_every_column_of_its_table() -> None:
    page = (Path(__file__).parent.parent / "docs" / "compare.md").read_text()
    listed = re.findall(r"`([a-z_0-9]+)`", page)
    missing = [column.name for column in COMPARISON_COLUMNS if column.name not in listed]
    assert missing == []
