"""What the site has besides the files of docs/: a page for each experiment, the findings, and what pages link to.

mkdocs calls the functions below. Nothing that they make is kept in the repository: it follows from experiments/,
results/ and vanbench.report.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from vanbench.report.experiment_page import experiment_page

ROOT = Path(__file__).parent.parent
# Files that pages link to or show, beside docs/ in the repository and within the site.
BESIDE = (
    *(f"results/*/*.{suffix}" for suffix in ("csv", "json", "gz", "md", "png", "svg")),
    *("experiments/*.toml", "experiments/*.py"),
)


def on_files(files: Files, config: Any) -> Files:
    """The documents and what they need."""
    results = ROOT / "results"
    for file in sorted((ROOT / "experiments").glob("*.toml")):
        text = experiment_page(file, results, "../results")
        files.append(File.generated(config, f"answers/{file.stem}.md", content=text))
    text = (results / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "findings.md", content=findings_page(text)))
    for pattern in BESIDE:
        for file in sorted(ROOT.glob(pattern)):
            place = file.relative_to(ROOT).as_posix()
            # A page of Markdown would be drawn; what stands beside docs/ is to be had as it is.
            place += ".txt" if file.suffix == ".md" else ""
            files.append(File.generated(config, place, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that lead out of docs/, for GitHub's sake, lead to the same files within the site."""
    markdown = markdown.replace("](../docs/", "](../")
    depth = page.file.src_uri.count("/")
    within = "../" * depth
    out = "../" * (depth + 1)
    return re.sub(
        rf"\]\({re.escape(out)}(results|experiments)/([^)]+)\)",
        lambda found: f"]({within}{_place(found[1], found[2])})",
        markdown,
    )


def findings_page(text: str) -> str:
    """results/README.md as a page of the site."""

    def moved(found: re.Match[str]) -> str:
        target = found[1]
        if target.startswith("../docs/"):
            return f"]({target.removeprefix('../docs/')})"
        if target.startswith("../experiments"):
            place = target.removeprefix("../")
            answer = re.fullmatch(r"experiments/(\w+)\.toml", place)
            return f"](answers/{answer[1]}.md)" if answer else f"]({place})"
        return f"]({_place('results', target)})"

    text = text.replace("[experiments/](../experiments)", "experiments/")
    return re.sub(r"\]\((?![a-z]+:|#)([^)]+)\)", moved, text)


def _place(folder: str, rest: str) -> str:
    if f"{folder}/{rest}" == "results/README.md":
        return "findings.md"
    return f"{folder}/{rest}" + (".txt" if rest.endswith(".md") else "")
