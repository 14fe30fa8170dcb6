"""The model card: the data, the scores, the limits and the use of a network.

It is Markdown with a YAML head, in the form that model hubs read (Mitchell et al., "Model Cards for Model Reporting",
2019). Every number comes from the run's files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewmask.config.inputs import RGB
from fewmask.config.scale import in_words
from fewmask.files import write_text
from fewmask.plurals import count
from fewmask.runs import CampaignSummary, Description, RunFolder, Spent, Summary

# Below this IoU more than half of the pixels that are labelled or predicted as a class are errors.
LOW = 0.5
MARK = "<!-- written by fewmask {digest}; a card that you changed is left alone -->"


@dataclass(frozen=True)
class Record:
    """The contents of a card: the records of a run, and the summaries of the same training with other seeds."""

    summary: Summary
    model: Description
    config: Mapping[str, Any]
    """The configuration as plain data."""
    campaign: CampaignSummary | None = None
    others: Sequence[Summary] = ()
    spent: Spent | None = None
    """The cost of all rounds of a campaign."""

    def miou(self, domain: str) -> list[float | None]:
        """The mIoU of a domain in this run and with the other seeds."""
        return [s.domains[domain].miou for s in (self.summary, *self.others)]

    def iou(self, domain: str, label: str) -> list[float | None]:
        """The IoU of a class in this run and with the other seeds."""
        return [s.domains[domain].iou[label] for s in (self.summary, *self.others)]


def read_record(folder: Path, others: Sequence[Path] = ()) -> Record:
    """The record of a finished run. `others` are runs of the same training; this run may be among them.

    Raises ValueError for a run that is not finished, and for `others` with another method, other steps or classes.
    """
    run = RunFolder(folder)
    summary = _summary(run)
    summaries = [(other, _summary(RunFolder(other))) for other in others]
    own_settings = run.settings()
    for other, other_summary in summaries:
        other_settings = RunFolder(other).settings()
        different = [key for key in own_settings | other_settings if own_settings.get(key) != other_settings.get(key)]
        for quantity, here, there in (
            ("method", summary.method, other_summary.method),
            ("steps", summary.steps, other_summary.steps),
            ("labelled images", summary.labelled, other_summary.labelled),
            ("classes", _classes(summary), _classes(other_summary)),
        ):
            if here != there:
                raise ValueError(f"{other}: not {folder} with another seed: {quantity} {there}, there {here}")
        if different:
            raise ValueError(f"{other}: not {folder} with another seed: other settings of {', '.join(different)}")
    seeds: dict[int, Summary] = {}
    for other, other_summary in summaries:
        if seeds.setdefault(other_summary.seed, other_summary) != other_summary:
            raise ValueError(f"{other}: another run has seed {other_summary.seed} too; name one of them")
    if seeds.pop(summary.seed, summary) != summary:
        raise ValueError(f"{folder}: another run has its seed {summary.seed} too; leave that run out")
    return Record(
        summary,
        run.read_network(),
        run.read_config(),
        run.read_campaign() if run.campaign.exists() else None,
        [seeds[seed] for seed in sorted(seeds)],
        run.spent(),
    )


def write_card(path: Path, record: Record) -> bool:
    """Write the card, unless there is one that somebody changed. Returns whether it was written."""
    if path.exists() and not _is_unchanged(path.read_text(encoding="utf-8")):
        return False
    text = render(record)
    write_text(path, f"{text}\n{MARK.format(digest=_digest(text))}\n")
    return True


def render(record: Record) -> str:
    """The card as text."""
    sections = (_title, _use, _scores, _labels, _training, _limits)
    return _head(record) + "\n" + "\n".join(section(record) for section in sections)


def escape(text: object) -> str:
    """Text in one line, with the characters escaped that Markdown or HTML would interpret."""
    plain = re.sub(r"\s+", " ", str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", plain)


def percent(values: Sequence[float | None]) -> str:
    """Values in %: a single one as it is, several as mean ± sample standard deviation."""
    percentages = [100 * v for v in values if v is not None]
    if len(percentages) < len(values) or not percentages:
        return "–"
    spread = f" ± {statistics.stdev(percentages):.1f}" if len(percentages) > 1 else ""
    return f"{statistics.mean(percentages):.1f}{spread}"


# ── Sections ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _head(record: Record) -> str:
    summary = record.summary
    results = [
        {
            "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
            "dataset": {"type": name, "name": name, "split": scores.split},
            "metrics": [
                {"type": "mean_iou", "name": "mIoU", "value": scores.miou},
                {"type": "pixel_accuracy", "name": "Pixel accuracy", "value": scores.pixel_accuracy},
            ],
        }
        for name, scores in summary.domains.items()
        if scores.miou is not None
    ]
    data = {
        "library_name": "fewmask",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", summary.method, record.model.model.encoder],
        "model-index": [{"name": summary.name, "results": results}],
    }
    licence = "# license: yours to fill in; the images, their masks and the pretrained weights may bind you\n"
    return f"---\n{licence}{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _title(record: Record) -> str:
    summary, model = record.summary, record.model.model
    domains = ", ".join(f"{escape(n)} ({len(s.names)} classes)" for n, s in record.model.spaces.items())
    return (
        f"# {escape(summary.name)}\n\nSemantic segmentation: one network, a head for each of {domains}. "
        f"Encoder `{model.encoder}`, decoder `{model.decoder}`, trained with fewmask's method "
        f"`{summary.method}`.\n"
    )


def _use(record: Record) -> str:
    first = next(iter(record.model.domains))
    several = f" --domain {shlex.quote(' '.join(first.split()))}" if len(record.model.domains) > 1 else ""
    return f"""## Use

```
fewmask predict RUN IMAGES{several}     # masks and overlays, for images of any size
fewmask export RUN                      # the same network as model.onnx
```

{_input(record)} Normalisation and padding are inside.
It gives `logits_<domain>`, float32 (B,C,H,W), for each head; the largest along C is the class, by the values below. The
file's metadata hold the label spaces.
{_scale(record)}"""


def _input(record: Record) -> str:
    kinds = {one.channels for one in record.model.inputs.values()}
    if kinds <= {RGB}:
        return "The ONNX file takes `image`, float32 (B,3,H,W), RGB in 0–255, of any B, H and W."
    each = "; ".join(f"{escape(n)}: {escape(', '.join(i.channels))}" for n, i in record.model.inputs.items())
    return (
        f"The ONNX file of a domain takes `image`, float32 (B,C,H,W) in 0–255, of any B, H and W, with the domain's "
        f"channels: {each}. Values of more than 8 bits are stretched first, see `stretch` in model.json."
    )


def _scale(record: Record) -> str:
    """The size of the images in training, which is the size at which the network recognises objects."""
    sizes = record.model.sizes
    if not any(sizes.values()):
        return ""
    scales = "; ".join(f"{escape(name)} {in_words(size)}" for name, size in sizes.items())
    return f"""
**Image size.** The network was trained and scored on images that were read {scales}, as the mean of their pixels.
`fewmask predict` brings images to that size and enlarges the masks to the images' own. Before the ONNX file, resize
images in the same way: on larger or smaller ones the scores below do not hold.
"""


def _scores(record: Record) -> str:
    seeds = 1 + len(record.others)
    over = f", mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else ", one seed"
    lines = [f"## Classes and scores\n\nIoU in %{over}; the class's value in a mask, and its ids in the data's masks."]
    for name, space in record.model.spaces.items():
        scores = record.summary.domains.get(name)
        lines.append(f"\n### {escape(name)}\n")
        if name not in record.summary.trained:
            lines.append("Its head was not trained, so its predictions are random.\n")
        elif scores is None:
            lines.append("It was not scored, since it has neither the split for scoring nor validation images.\n")
        else:
            lines.append(
                f"{count(scores.images, 'image')} of `{scores.split}`, {count(scores.pixels, 'labelled pixel')}: "
                f"mIoU **{percent(record.miou(name))}**, "
                f"pixel accuracy {percent([scores.pixel_accuracy])} (this run).\n"
            )
        lines += ["| value | class | ids | IoU |", "|---|---|---|---|"]
        for value, label in enumerate(space.names):
            ids = ", ".join(str(raw) for raw, index in sorted(space.raw_ids.items()) if index == value)
            iou = "–" if scores is None else percent(record.iou(name, label))
            lines.append(f"| {value} | {escape(label)} | {ids} | {iou} |")
    if len(record.summary.domains) > 1:
        mean = percent([s.avg_miou for s in (record.summary, *record.others)])
        lines.append(f"\nMean mIoU over domains: **{mean}**.")
    return "\n".join(lines) + "\n"


def _labels(record: Record) -> str:
    summary, campaign = record.summary, record.campaign
    lines = [
        "## Data and labels\n",
        "| domain | images wholly labelled | in part | without labels |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {escape(n)} | {k - part:,} | {part:,} | {summary.unlabelled[n] - part:,} |"
        for n, k in summary.labelled.items()
        if n in summary.trained
        for part in [summary.in_part.get(n, 0)]
    ]
    for name, settings in record.config["domains"].items():
        lines.append(f"\n{escape(name)}: layout `{settings['layout']}`.")
    if campaign and campaign.history:
        last, people = campaign.history[-1], record.config["campaign"]["annotator"] == "people"
        pixels = ", ".join(f"{escape(n)} {count:,}" for n, count in last.pixels.items())
        clicks, seconds = campaign.clicks, campaign.seconds
        worked = count(round(seconds), "annotator second")
        took = f", with {count(clicks, 'click')} in {worked}" if clicks or seconds else ""
        lines.append(
            f"\nA campaign of {count(len(campaign.history), 'round')}. Labelled pixels in the last one: {pixels}. "
            f"Regions asked: {campaign.asked:,}, answered: {campaign.answered:,}{took}, "
            f"by {'people' if people else 'a simulated annotator'}{'' if took else ', whose time was not measured'}."
        )
    return "\n".join(lines) + "\n"


def _training(record: Record) -> str:
    summary, train = record.summary, record.config["train"]
    method = {key: value for key, value in record.config["method"].items() if key != "name"}
    hardware, cost = summary.hardware, record.spent or summary
    rounds = f", {cost.steps:,} in all rounds" if cost.steps != summary.steps else ""
    rows = {
        "method": summary.method + (f" {json.dumps(method, ensure_ascii=False)}" if method else ""),
        "steps": f"{summary.steps:,}, weights of step {summary.selected_step:,}{rounds}",
        "batch": f"{train['batch_size']} crops of {train['crop'][0]}×{train['crop'][1]}",
        "optimiser": json.dumps(train["optimiser"]),
        "pretrained weights": Path(str(record.config["model"].get("weights") or "none")).name,
        "seed": ", ".join(str(s.seed) for s in (summary, *record.others)),
        "time": f"{cost.seconds:,.0f} s{' in all rounds' * bool(rounds)}",
        "hardware": f"{hardware.device} ({hardware.name}), {hardware.threads} threads",
        "versions": ", ".join(f"{name} {number}" for name, number in summary.versions.items()),
        "SHA-256 of model.safetensors": record.model.weights,
    }
    return (
        "\n".join(["## Training\n", "| | |", "|---|---|", *(f"| {k} | {escape(v)} |" for k, v in rows.items())]) + "\n"
    )


def _limits(record: Record) -> str:
    lines = [
        "## Limits\n",
        "- A head knows its domain's classes alone. Every pixel gets one of them, also where the image shows none. "
        "Images unlike those of the domain were not scored.",
        "- Void (255) and not labelled (254) pixels were neither trained on nor scored; the network predicts neither.",
    ]
    for name, scores in record.summary.domains.items():
        low = [escape(c) for c, v in scores.iou.items() if v is not None and v < LOW]
        unscored = [escape(c) for c, v in scores.iou.items() if v is None]
        if low:
            lines.append(f"- {escape(name)}: IoU below {100 * LOW:.0f} % on {', '.join(low)}.")
        if unscored:
            lines.append(f"- {escape(name)}: no scored pixel of {', '.join(unscored)}; nothing is known of them.")
        if missing := record.summary.unseen.get(name):
            classes = ", ".join(map(escape, missing))
            lines.append(f"- {escape(name)}: no labelled mask had a pixel of {classes}; the head could not learn them.")
        if scores.split == "val":
            lines.append(
                f"- {escape(name)}: scored on validation, on which the weights were chosen; new images score lower."
            )
    if not record.others:
        lines.append("- One seed: another choice of labelled images, or of random numbers, gives other figures.")
    return "\n".join(lines) + "\n"


def _summary(run: RunFolder) -> Summary:
    if not run.summary.exists():
        raise ValueError(
            f"{run.folder}: a card needs {run.summary.name}, which is missing; let `fewmask train` finish first"
        )
    return run.read_summary()


def _classes(summary: Summary) -> dict[str, list[str]]:
    return {name: list(scores.iou) for name, scores in summary.domains.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_unchanged(text: str) -> bool:
    """Whether fewmask wrote a card and nobody has changed it."""
    body, _, mark = text.rstrip("\n").rpartition("\n")
    return mark == MARK.format(digest=_digest(body))
