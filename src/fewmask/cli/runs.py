"""evaluate, predict, export: use the network of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewmask.cli.tables import print_heads, print_scores
from fewmask.cli.terminal import Device, Json, RunFolder, Split, counting, print_json, say
from fewmask.plurals import count

if TYPE_CHECKING:
    import torch

    from fewmask.config import Config
    from fewmask.data.domain import Domain
    from fewmask.engine.evaluation import Progress
    from fewmask.runs import ImageCounts


def evaluate(
    run: RunFolder,
    split: Split = "val",
    on: Annotated[
        Path | None,
        typer.Option(help="Score on another domain: of this configuration, or in this folder of the layout `folder`."),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(help="The domain of --on to score; without --on, a domain of the run, held out or not."),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="The head to score on it; by default every head, and all heads fused.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="A class mapping in YAML, with lines `source: target` or `source: null`.")
    ] = None,
    new_head_steps: Annotated[
        int,
        typer.Option(min=0, help="Train a new head on the frozen network for this many steps instead of mapping."),
    ] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a run by class on its own domains, or on another domain by a class mapping or with a new head."""
    from fewmask.runs import RunFolder
    from fewmask.runs.reading import check_split

    check_split(split)
    settings = RunFolder(run).load_config()
    RunFolder(run).read_network()  # refuses other folders before torch is imported
    counts: dict[str, ImageCounts] = {}
    own_domains = on is None and domain is None
    if own_domains and (head or classes or new_head_steps):
        raise ValueError("--head, --classes and --new-head-steps are for another domain; name it by --on or --domain")
    from fewmask.data.domains import load_domains
    from fewmask.engine.device import choose_device
    from fewmask.engine.evaluation import evaluate as score
    from fewmask.models.saved import load_model

    with counting("images") as progress:
        if own_domains:
            result = score(
                load_model(run, choose_device(device)),
                load_domains(settings),
                split,
                synonyms=settings.synonyms,
                workers=settings.train.workers,
                precision=settings.train.precision,
                progress=progress,
                keep=counts.__setitem__,
            )
            if not result["domains"]:
                raise ValueError(f"--split {split}: no domain of {run} has images in it; give another split")
        else:
            target = _target(settings, on, domain)
            torch_device = choose_device(device)
            result = _transfer(run, torch_device, settings, target, head, classes, new_head_steps, split, progress)
    RunFolder(run).record_evaluation(split, result)
    if own_domains:
        RunFolder(run).record_counts(result["domains"], counts)
    if as_json:
        print_json(result)
        return
    if "heads" in result:
        print_heads(result, f"{run}, {split}")
    else:
        print_scores(result, str(run))
    if not own_domains and target.size is None and result["size"] is not None:
        from fewmask.config.scale import in_words

        say(f"{target.name}: images were read {in_words(result['size'])}, as in training.")


def predict(
    run: RunFolder,
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="A folder of images, of any size.", show_default=False)
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", help="The folder to write to; RUN/predictions by default.")
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            help="The domain whose classes to predict, if the model has several. `auto` chooses the best domain for "
            "each image; `fused` predicts the classes of all domains together."
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="png|coco|labelme|geojson",
            help="Write coco, labelme or geojson too, each exact to the pixel. PNG masks are always written.",
        ),
    ] = "png",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict anew into a folder that holds another prediction.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one batch.")] = 4,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write masks and coloured overlays for every image of a folder. The same command resumes where it was stopped.

    The network sees images at its size in training (`size`). Masks have the size of the images."""
    from fewmask.runs import RunFolder

    config = RunFolder(run).load_config()
    settings = config.train
    domains = [config.domains[domain]] if domain in config.domains else [*config.domains.values()]
    upright = all(getattr(domain_settings, "orientation", "ignore") == "apply" for domain_settings in domains)
    RunFolder(run).read_network()
    if not images.exists():
        raise ValueError(f"{images}: not found; give a folder of images, or an image")
    from fewmask.engine.device import choose_device
    from fewmask.engine.prediction import predict as write
    from fewmask.engine.prediction_formats import FORMS
    from fewmask.engine.prototypes import load_fused
    from fewmask.models.fusion import AUTO, FUSED
    from fewmask.models.saved import load_model

    forms = {form_name: form_name for form_name in FORMS}
    if form not in forms:
        raise ValueError(f"--as {form}: no such form; give one of {', '.join(FORMS)}")
    model = (load_fused if domain in (AUTO, FUSED) else load_model)(run, choose_device(device))
    target = folder or run / "predictions"
    with counting("images") as progress:
        result = write(
            model, images, target, domain,
            batch_size=batch_size, workers=settings.workers, precision=settings.precision, progress=progress,
            form=forms[form], upright=upright, overwrite=overwrite,
        )  # fmt: skip
    if as_json:
        print_json(result)
    elif "chosen" in result:
        chosen = ", ".join(f"{name} {count}" for name, count in result["chosen"].items())
        say(f"{target}: a folder for each domain, and domains.csv")
        say(f"{chosen}; {result['ambiguous']} of {result['images']} ambiguous")
    else:
        say(f"{target}: masks/, overlays/ and classes.yaml")
    if not as_json:
        _say_remarks(result)


def _say_remarks(result: Mapping[str, Any]) -> None:
    """Print the remarks that a user of the masks of `predict` must know."""
    from fewmask.config.scale import in_words
    from fewmask.engine.image_files import first_names

    for path in result["forms"]:
        say(path)
    if result["before"]:
        say(f"{result['before']:,} of {count(result['images'], 'image')} had been predicted before.")
    for path in result["older_forms"]:
        say(
            f"{path}: belongs to an earlier prediction; remove it, or write it again by the same command with its --as."
        )
    for name, size in result["sizes"].items():
        if size is not None:
            say(f"{name}: the network saw images {in_words(size)}, as in training; masks have the images' own size.")
    if result["left_out"]:
        say(f"Left out, no images by their names: {len(result['left_out']):,} ({first_names(result['left_out'])}).")
    for remark, images in result["remarks"].items():
        say(f"{count(len(images), 'image')} ({first_names(images)}): {remark}.")


def export(
    run: RunFolder,
    file: Annotated[Path | None, typer.Option("--out", help="The file; RUN/model.onnx by default.")] = None,
    domain: Annotated[str | None, typer.Option(help="Export this domain's head alone.")] = None,
    seeds: Annotated[
        list[Path] | None,
        typer.Option(help="A run of the same training with another seed, for the spread in the model card."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the model as ONNX, for images of any size, with a model card beside it."""
    from fewmask.runs import RunFolder

    RunFolder(run).read_network()  # refuses other folders before torch is imported
    from fewmask.onnx_export import export as write

    result = write(run, file or run / "model.onnx", domain, seeds or ())
    if as_json:
        print_json(result)
    else:
        say(result["file"])
        say(result["card"] or "No model card was written: the existing one was changed, or the run has no summary.")


def _target(settings: Config, on: Path | None, domain: str | None) -> Domain:
    """The domain to score on."""
    from fewmask.config import FolderDomain, read_config
    from fewmask.data.domains import load_domains
    from fewmask.data.layouts import load_domain

    if on is None:
        domains = {**settings.domains, **settings.held_out}
        name = _only(domain, domains, "--domain")
        return load_domain(name, domains[name])
    if on.is_dir():
        return load_domain(domain or on.resolve().name, FolderDomain(root=on))
    listed_domains = load_domains(read_config(on))
    return listed_domains[_only(domain, listed_domains, "--domain")]


def _transfer(
    run: Path,
    device: torch.device,
    settings: Config,
    target: Domain,
    head: str | None,
    classes: Path | None,
    steps: int,
    split: str,
    progress: Progress,
) -> dict[str, Any]:
    """The scores of a run on another domain: of a new head, of every head, or of one head by a mapping."""
    from fewmask.engine.generalise import every_head
    from fewmask.engine.prototypes import load_fused
    from fewmask.engine.run import load_model
    from fewmask.engine.transfer import through_mapping, with_new_head

    model = load_model(run, device)
    if steps:
        return with_new_head(
            model, target,
            steps=steps, settings=settings.train, seed=settings.seed, split=split, progress=progress,
        )  # fmt: skip
    names = _class_names(classes) if classes else None
    options: Any = {
        "workers": settings.train.workers,
        "precision": settings.train.precision,
        "progress": progress,
    }
    try:
        if head is None and len(model.domains) > 1:
            return every_head(load_fused(run, device), target, names, split, **options)
        return through_mapping(model, _only(head, model.spaces, "--head"), target, names, split, **options)
    except ValueError as error:
        if names is not None or not str(error).startswith("class mapping"):
            raise
        alternative = ", or choose one head by --head" if head is None and len(model.domains) > 1 else ""
        raise ValueError(
            f"{error}. Write such lines, as `wall: null`, to a file for --classes FILE{alternative}"
        ) from None


def _class_names(path: Path) -> dict[str, str | None]:
    from fewmask import strict_yaml

    try:
        names, text = strict_yaml.read_yaml(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; write a file of `source: target` lines") from None
    for source, target in names.items() if isinstance(names, dict) else ():
        if not isinstance(source, str):
            raise ValueError(f"{path}: {strict_yaml.unquoted(text, [source], source, key=True)}")
        if isinstance(target, bool | int | float):
            raise ValueError(f"{path}: {source}: {strict_yaml.unquoted(text, [source], target)}")
    if not isinstance(names, dict) or not all(isinstance(v, str | None) for pair in names.items() for v in pair):
        raise ValueError(f"{path}: not a class mapping; write lines `source: target`, or `source: null` for no class")
    return names


def _only(name: str | None, choices: Mapping[str, Any], option: str) -> str:
    if name is None and len(choices) == 1:
        return next(iter(choices))
    if name is None or name not in choices:
        raise ValueError(f"{option}: give one of {', '.join(choices)}")
    return name
