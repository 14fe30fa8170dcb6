"""The recipes: that each is what it says, runs on its datasets' own trees, and says what it lacks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from statistics import mean, stdev

import pytest
import trees
import yaml
from command import Fewmask, is_refused
from ondisk import ENCODER, write_domain
from PIL import Image

from fewmask import recipes
from fewmask.config import CampaignSettings, Config
from fewmask.methods import METHODS, SETTINGS, read_config
from fewmask.recipes.data import check_data

ROOT = Path(__file__).parents[2]
NAMES = [
    *("active-camvid", "active-cityscapes", "cityscapes-camvid", "cityscapes-idd", "cityscapes-sunrgbd", "compare"),
    *("labels-camvid", "real-domains", "real-single", "scenes", "scenes-adaptation", "semi-cityscapes", "unimatch-v2"),
]
ROWS = [(name, row) for name in NAMES for row in recipes.read_recipe(name).table()]
ONCE = ["class-wise", "pixelpick-camvid", "random-images-camvid", "random-regions-camvid", "s4al-camvid"]
ONCE += ["s4al-plus-camvid"]
WEIGHTS = "weights/mobilenetv2_100.imagenet.safetensors"
TINY = [
    f"model.encoder={ENCODER}",
    "model.encoder_options={}",
    "model.weights=null",
    *("train.steps=2", "train.batch_size=4", "train.unlabelled_batch_size=4", "train.crop=[32, 32]"),
    *("train.precision=fp32", "train.device=cpu", "train.workers=0", "train.optimiser={}"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything is there, in small: each dataset in the tree in which it is published."""
    root = tmp_path_factory.mktemp("data")
    trees.cityscapes(root / "cityscapes")
    trees.idd(root / "idd", "labellevel3Ids")
    trees.sunrgbd(root / "sunrgbd")
    for number, name in enumerate(("camvid", "labelmefacade", "msrc_v2")):
        write_domain(root / name, 3 + number, pool=0, seed=number)
    trees.camvid(root / "camvid")  # CamVid in both of its layouts, in one folder
    for path in [*root.rglob("*.png"), *root.rglob("*.jpg")]:  # each pixel of the trees' images a cell of a network
        with Image.open(path) as image:
            if image.size == trees.SIZE[::-1]:
                image.resize((8 * image.width, 8 * image.height), Image.Resampling.NEAREST).save(path)
    (root / "weights").mkdir()
    (root / WEIGHTS).write_bytes(b"")
    return root


def settings(name: str, row: str, data: Path = Path(), overrides: list[str] | None = None) -> Config:
    return recipes.configuration(recipes.read_recipe(name), name, row, data, overrides or [])


def small(config: Config) -> list[str]:
    """Overrides with which the configuration runs on the tiny trees."""
    overrides = [*TINY, f"labelled.images={min(config.labelled.images, 2) if config.labelled.images else 0}"]
    if config.labelled.images in (None, 12):  # all, and as many as the scenes need to show every class
        overrides.pop()
    if config.model.decoder == "dpt":
        overrides += ["model.encoder=tu-vit_small_patch14_dinov2"]
        overrides += ["model.encoder_options={embed_dim: 48, depth: 4, num_heads: 2, img_size: 56}"]
    for name, domain in config.domains.items():
        scenes = ("train=13", "val=1", "test=1")
        overrides += [f"domains.{name}.{key}" for key in (scenes if domain.layout == "scenes" else ["size=null"])]
    if config.campaign:
        overrides += [f"campaign.rounds={min(config.campaign.rounds, 2)}"]
        overrides += ["campaign.first_steps=null", "campaign.last_steps=null", "campaign.first_batch_size=null"]
        for key in ("first", "ask"):
            if ask := getattr(config.campaign, key):
                overrides += [f"campaign.{key}.regions={re.sub('squares:.*', 'squares:4', ask.regions)}"]
                overrides += [f"campaign.{key}.budget={{amount: 3, unit: regions}}"]
    return overrides


def command(name: str, row: str, data: Path, out: Path, *more: str) -> list[object]:
    first = recipes.read_recipe(name).choose([row])[0]
    words = ["recipes", "run", name, row, f"data={data}", *small(settings(name, first)), *more]
    return [*words, "--seeds", "0", "--incomplete", "--out", out]


# ── What they are ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_recipes_are_these() -> None:
    assert recipes.names() == NAMES
    assert sorted(name for recipe in NAMES for name in recipes.read_recipe(recipe).once) == ONCE


@pytest.mark.parametrize("name", NAMES)
def test_every_row_parses(name: str, data: Path) -> None:
    recipe = recipes.read_recipe(name)
    needed = {data / path for path in recipes.sources()}
    for row in recipe.table():
        config = settings(name, row, data)
        assert config.name == f"{name}.{row}"
        assert config.method.name in METHODS
        roots = {domain.root for domain in config.domains.values() if hasattr(domain, "root")}
        assert roots | ({config.model.weights} - {None, "imagenet"}) <= needed
    assert recipes.configuration(recipe, name, row, data, ["train.steps=7"], seed=3).seed == 3


@pytest.mark.parametrize("name", NAMES)
def test_what_is_published_is_of_its_rows_or_stands_alone_and_says_its_source(name: str) -> None:
    recipe = recipes.read_recipe(name)
    domains = set(recipe.config["domains"])
    assert all(domains >= set(of) for of in [*recipe.published.values(), *recipe.published_iou.values()])
    assert not recipe.published or recipe.source
    alone = {"scenenet"}
    assert set(recipe.published) | set(recipe.published_iou) <= set(recipe.table()) | alone


def test_rows_of_one_table_differ_in_what_they_say_alone() -> None:
    """So that nothing but the method, or what is labelled, tells two rows apart."""
    for name in ("compare", "real-domains", "real-single", "labels-camvid"):
        trains = [settings(name, row) for row in recipes.read_recipe(name).table()]
        models = {config.model.model_dump_json() for config in trains}
        assert len(models) == 1
        crops = {(config.train.crop, config.train.optimiser) for config in trains}
        assert len(crops) == 1
    rows = recipes.read_recipe("compare").table()
    assert {rows[row]["method"] for row in ("joint", "univ-full")} == {"joint", "univ-full"}
    total = {row: settings("compare", row) for row in rows}
    steps = {c.train.steps * (c.campaign.rounds if c.campaign else 1) for c in total.values()}
    assert steps == {400}


def test_the_real_domains_are_those_of_the_configuration_beside_them() -> None:
    """The table of docs/results.md was made with it."""
    path = ROOT / "configs" / "camvid-facade-msrc.yaml"
    there = read_config(path)
    for row in ("joint", "univ-full"):
        for name, full in (("compare", row), ("real-domains", f"{row}-all-n30")):
            here = settings(name, full, path.parent / "../../shared/data")
            same = {"domains", "labelled", "synonyms", "model", "train", "seed", "campaign"}
            assert here.model_dump(include=same) == there.model_dump(include=same)
    assert settings("compare", "univ-full").method == there.method


PIXELS = {"camvid": (367, 360 * 480), "cityscapes": (2975, 688 * 688)}


@pytest.mark.parametrize(
    ("name", "row", "share"),
    [
        ("labels-camvid", "random-images", 12.0),
        ("labels-camvid", "random-regions", 12.1),
        ("labels-camvid", "s4al", 12.1),
        ("labels-camvid", "s4al-plus", 12.1),
        ("labels-camvid", "pixelpick", 0.058),
        ("active-camvid", "random-images", 12.0),
        ("active-camvid", "s4al", 13.8),
        ("active-camvid", "s4al-plus", 12.1),
        ("active-cityscapes", "random-images", 15.1),
        ("active-cityscapes", "s4al", 17.0),
        ("active-cityscapes", "s4al-plus", 15.1),
    ],
)
def test_the_budget_is_the_one_that_it_says(name: str, row: str, share: float) -> None:
    config = settings(name, row)
    (domain,) = config.domains
    images, size = PIXELS[domain]
    whole = config.labelled.images or 0
    pixels = whole * size
    if config.campaign:
        for ask in filter(None, [config.campaign.first, *[config.campaign.ask] * (config.campaign.rounds - 1)]):
            region = 1 if ask.regions == "points" else int(ask.regions.removeprefix("squares:")) ** 2
            assert (ask.budget.unit, ask.budget.per) in {("pixels", "pool"), ("regions", "image")}
            if ask.regions == "points":  # of more candidates the best would be asked, not a uniform draw from the top
                assert ask.candidates == ask.budget.amount
            amount = ask.budget.amount * ((images - whole) if ask.budget.per == "image" else 1 / region)
            pixels += int(amount) * region
    assert round(100 * pixels / (images * size), 3 if share < 1 else 1) == share


def test_a_row_is_multiplied_out_and_its_own_settings_come_last() -> None:
    rate = {"megapixels": 2, "machine": "a clock", "why": "it says so"}
    both = {"config": {}, "rate": rate, "title": "t", "paper": "p", "expected": "e"}
    groups = [{"few": {"seed": 1, "x": 1}, "many": {"seed": 2}}, {"here": {"y": 1}}]
    recipe = recipes.Recipe.model_validate(both | {"rows": {"a": {}, "b": {"x": 9}}, "times": groups})
    assert recipe.table() == {
        "a-few-here": {"seed": 1, "x": 1, "y": 1},
        "a-many-here": {"seed": 2, "y": 1},
        "b-few-here": {"seed": 1, "x": 9, "y": 1},
        "b-many-here": {"seed": 2, "x": 9, "y": 1},
    }
    assert recipe.choose(["*-many-*", "a-few-here"]) == ["a-few-here", "a-many-here", "b-many-here"]
    with pytest.raises(ValueError, match="no row 'c'; there are a-few-here, "):
        recipe.choose(["a-*", "c"])


def test_the_cost_is_pixels_by_rate(data: Path) -> None:
    config = settings("compare", "joint")
    assert recipes.megapixels(config) == pytest.approx(400 * 9 * 192 * 256 / 1e6)
    assert recipes.megapixels(settings("compare", "entropy-min")) == pytest.approx(2 * recipes.megapixels(config))
    # The first teacher of S4AL+ sees no pool: 800 steps of 8, then two students' 800 of 8 and 8.
    teacher, student = 800 * 8, 800 * (8 + SETTINGS["s4al-plus"].pool_cost * 8)
    expected = (teacher + 2 * student) * 240 * 320 / 1e6
    assert recipes.megapixels(settings("labels-camvid", "s4al-plus")) == pytest.approx(expected)
    seconds = recipes.seconds(recipes.read_recipe("compare"), {"joint": config})
    assert seconds["joint"] == pytest.approx(recipes.megapixels(config) / 0.65)


def test_the_cost_of_steps_by_the_data_is_unknown(tmp_path: Path, fewmask: Fewmask) -> None:
    config = settings("compare", "joint", overrides=["train.steps=auto"])
    assert recipes.megapixels(config) is None
    assert recipes.seconds(recipes.read_recipe("compare"), {"joint": config}) == {"joint": None}
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: t\npaper: none\nexpected: e\nrate: {megapixels: 1, machine: a CPU, why: w}\n"
        "config: {domains: {a: {layout: folder, root: a}}, method: joint, train: {steps: auto, crop: [100, 100]}}\n"
        "rows: {by-data: {}, stated: {train.steps: 50, train.batch_size: 4}}\n",
        encoding="utf-8",
    )
    shown = fewmask("recipes", "show", path)
    assert "#   by-data: unknown: the data decides it (train.steps: auto)\n#   stated: 2 s\n" in shown.out, shown.err
    assert json.loads(fewmask("recipes", "show", path, "--json").out)["seconds"] == {"by-data": None, "stated": 2.0}


def test_every_method_that_draws_from_the_pool_has_a_cost() -> None:
    free = {name for name in METHODS if not SETTINGS[name].pool_cost}
    assert free == {"supervised", "joint", "fine-tune", "deal"}


# ── Running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_with_our_figures_beside_the_published_ones(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    out = tmp_path / "runs"
    words = [*command("cityscapes-camvid", "univ-full-n375", data, out), "train.steps=1"]
    run = ["0,1" if word == "0" else word for word in words]
    one = ["train-on-camvid-n375" if word == "univ-full-n375" else word for word in words]
    assert fewmask(*one).code == 0
    done = fewmask(*run)
    assert done.code == 0, done.err
    assert "cityscapes: train 4, val 2 images (cityscapes, " in done.err
    assert "64.7" in done.out
    assert "falls from 10.2 to 0" in done.out
    assert "To expect with the recipe's own settings:" in done.out
    results = json.loads(fewmask(*run, "--json").out)
    row = results["rows"]["univ-full-n375"]
    runs = [json.loads((out / f"univ-full-n375-{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    figures = [summary["domains"]["camvid"]["miou"] for summary in runs]
    assert row["seeds"] == [0, 1]
    cell = row["domains"]["camvid"]
    assert (cell["mean"], cell["sd"]) == pytest.approx((mean(figures), stdev(figures)))
    assert (cell["published"], row["mean"]["published"]) == pytest.approx((0.6472, (0.5592 + 0.6472) / 2))
    assert row["seconds_a_step"]["mean"] == pytest.approx(mean(one["seconds"] / 1 for one in runs))
    assert row["memory_mib"]["mean"] == pytest.approx(mean(one["memory_mib"] for one in runs))
    # A domain that the row does not train has a head of its own on the frozen network.
    other = results["runs"]["train-on-camvid-n375/0"]["domains"]["cityscapes"]
    assert other["way"] == "new head"
    assert 0 <= other["miou"] <= 1
    assert results["rows"]["hung2018-n375"]["domains"]["cityscapes"]["mean"] is None
    assert json.loads((out / "results.json").read_text())["rows"] == results["rows"]
    table = (out / "results.md").read_text()
    assert "| hung2018-n375 | 0 | – | 58.8 | – |" in table
    assert "| minutes | s a step | MiB |" in table
    assert "`fewmask recipes run " in table
    assert f"Not the recipe's own settings: {TINY[0]} " in done.out
    assert f"| {row['memory_mib']['mean']:.0f} |" in table
    assert "## cityscapes: IoU by class" in table
    # Nothing is trained again, and no run of other settings comes into the table.
    before = (out / "univ-full-n375-0" / "model.safetensors").stat().st_mtime_ns
    assert fewmask(*run).code == 0
    assert (out / "univ-full-n375-0" / "model.safetensors").stat().st_mtime_ns == before
    is_refused(fewmask(*run[:3], "univ-basic-n375", *run[4:], "train.steps=3"), "another configuration", "train.steps")
    assert not (out / "univ-basic-n375-0").exists()


def test_a_campaign_by_the_name_that_it_was_known_by(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    own = "s4al-plus"
    words = ["s4al-plus-camvid", *command("labels-camvid", own, data, tmp_path / "runs")[4:]]
    results = json.loads(fewmask("recipes", "run", *words, "--json").out)
    assert results["recipe"] == "labels-camvid"
    campaign = json.loads((tmp_path / "runs" / f"{own}-0" / "campaign.json").read_text())
    assert campaign["state"] == "done"
    assert results["rows"][own]["domains"]["camvid"]["mean"] == campaign["result"]["domains"]["camvid"]["miou"]
    assert results["runs"][f"{own}/0"]["asked"] == campaign["asked"]
    # What it took is what all of its trainings and looks took.
    rounds = [json.loads(f.read_text()) for f in (tmp_path / "runs" / f"{own}-0" / "rounds").glob("*/summary.json")]
    assert len(rounds) == 2
    looks = sum(entry["score_pool_seconds"] for entry in campaign["history"])
    for key, beside in (("seconds", looks), ("steps", 0)):
        assert results["runs"][f"{own}/0"][key] == pytest.approx(sum(one[key] for one in rounds) + beside)
    assert results["runs"][f"{own}/0"]["memory_mib"] == max(one["memory_mib"] for one in rounds)


def test_overrides_of_campaigns_hold_for_the_rows_that_are_one_and_are_checked_before_any_is_run(
    data: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    of_full = command("labels-camvid", "full", data, tmp_path / "runs")
    is_refused(fewmask(*of_full, "campaign.target=0.5"), "campaign.target=0.5: none of these rows is a campaign: full")
    words = command("labels-camvid", "s4al-plus", data, tmp_path / "runs", "campaign.pool.network=student")
    wrong = fewmask(*words[:3], "full", *words[3:])
    is_refused(wrong, "row s4al-plus: campaign.pool.network: s4al-plus keeps no 'student'")
    assert not list((tmp_path / "runs").glob("*/config.yaml"))


def test_people_are_waited_for(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    words = command("labels-camvid", "random-regions", data, tmp_path / "runs", "campaign.annotator=people")
    done = fewmask(*words)
    assert done.code == 0, done.err
    assert f"fewmask answer {tmp_path / 'runs' / 'random-regions-0'}" in done.out
    results = json.loads(fewmask(*words, "--json").out)
    assert results["rows"].keys() == {"full", "pixelpick"}  # what is published
    assert results["waiting"]["random-regions-0"]["open"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), [(n, r) for n, r in ROWS if not n.startswith("real-")] + [
    ("real-domains", "univ-full-camvid-msrc-n10"), ("real-single", "unimatch-msrc-n100"),
])  # fmt: skip
def test_every_row_runs(name: str, row: str, data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask(*command(name, row, data, tmp_path / "runs"), *(["--json"]))
    assert done.code == 0, done.err
    cells = json.loads(done.out)["rows"][row]["domains"]
    scored = set(settings(name, row).domains) if recipes.read_recipe(name).heads else set(cells)
    assert {name for name, cell in cells.items() if cell["mean"] is not None} == scored


def test_a_recipe_of_ones_own(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    made = yaml.safe_load(recipes.text("scenes")) | {"seeds": [5]}
    lonely = {"train.batch_size": 1, "train.crop": [8, 8]}
    made["rows"] = {"lonely": lonely, "mine": {"train.batch_size": 3, "train.crop": [32, 32]}}
    for domain in made["config"]["domains"].values():
        domain |= {"train": 2, "val": 1, "test": 1}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    tiny = [word for word in TINY if not word.startswith(("train.batch_size", "train.crop"))]
    done = fewmask("recipes", "run", path, *tiny, "labelled.images=1", "--out", tmp_path / "runs", "--json")
    # A run that cannot be does not keep the others from running, and is told of.
    assert done.code == 1
    assert done.err.index("lonely-5 failed: train.batch_size") < done.err.index("mine-5 train")  # told at once
    assert "1 of 2 runs failed\nlonely-5: train.batch_size: with one image of 8×8" in done.err
    results = json.loads(done.out)
    assert (list(results["runs"]), list(results["failed"])) == (["mine/5"], ["lonely-5"])
    path.write_text("title: no more\nrows: {a b: {}}\n", encoding="utf-8")
    is_refused(fewmask("recipes", "run", path), "not a recipe", "rows.a b", "rate: Field required")
    is_refused(fewmask("recipes", "run", tmp_path / "none.yaml"), "cannot be read")


# ── Telling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_they_are_listed(fewmask: Fewmask) -> None:
    done = fewmask("recipes", "list")
    assert done.code == 0, done.err
    assert [name for name in NAMES if name in done.out] == NAMES
    listing = json.loads(fewmask("recipes", "--json").out)
    assert list(listing) == NAMES
    assert listing["cityscapes-idd"]["published"]["univ-full"]["idd"] == 0.2745
    assert list(listing["compare"]["seconds"]) == list(recipes.read_recipe("compare").table())


@pytest.mark.parametrize("name", ["semi-cityscapes", "s4al-camvid"])
def test_it_is_shown(name: str, fewmask: Fewmask) -> None:
    done = fewmask("recipes", "show", name)
    assert done.code == 0, done.err
    assert done.out.startswith(recipes.text(name))
    recipe = recipes.read_recipe(name)
    assert all(f"#   {row}: " in done.out for row in recipe.table())
    assert yaml.safe_load(done.out)["rows"] == recipe.rows
    details = json.loads(fewmask("recipes", "show", name, "--json").out)
    assert details["table"] == recipe.table()


def test_what_is_asked_for_wrongly(data: Path, fewmask: Fewmask) -> None:
    for verb in ("show", "run", "check"):
        is_refused(fewmask("recipes", verb, "s5al"), "no recipe 's5al'", *NAMES)
    run = ["recipes", "run", "labels-camvid"]
    is_refused(fewmask(*run), "data=FOLDER", "camvid")
    is_refused(fewmask(*run, "data="), "data=FOLDER")
    is_refused(fewmask(*run, "s6al", f"data={data}"), "no row 's6al'", "pixelpick")
    is_refused(fewmask(*run, f"data={data}", "seed=3"), "--seeds")
    is_refused(fewmask(*run, f"data={data}", "--seeds", "0", "1"), "1: not a row", "--seeds 0,1,2")
    is_refused(fewmask(*run, f"data={data}", "--seeds", "few"), "--seeds 'few'")
    is_refused(fewmask("recipes", "run", "s4al-camvid", "full", f"data={data}"), "rows of labels-camvid already")
    wrong = fewmask(*run, "s4al", f"data={data}", "train.stpes=3", "labelled.images=-1")
    is_refused(wrong, "recipe labels-camvid, row s4al:", "train.stpes: unknown key", "labelled.images: ")


# ── The data ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_that_is_missing_is_listed_with_where_to_get_it(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    some = tmp_path / "some"
    shutil.copytree(data / "camvid", some / "camvid")
    (some / "camvid" / "classes.yaml").unlink()
    is_refused(
        fewmask("recipes", "run", "compare", f"data={some}"),
        f"{some / 'camvid' / 'classes.yaml'}",
        f"{some / 'labelmefacade'}: missing; LabelMeFacade",
        f"{some / 'msrc_v2'}: missing; MSRC-v2",
        f"{some / WEIGHTS}: missing; ImageNet weights",
    )
    # What an override does without is not missing.
    overrides = ["model.weights=imagenet", "domains.camvid.layout=camvid"]
    configs = [settings("labels-camvid", "full", some, overrides)]
    assert check_data("labels-camvid", configs, some, incomplete=True)[0].layout == "camvid"


def test_a_dataset_with_fewer_images_than_were_published_is_refused(data: Path, fewmask: Fewmask) -> None:
    done = fewmask("recipes", "run", "cityscapes-idd", f"data={data}")
    is_refused(
        done,
        f"domain cityscapes: {data / 'cityscapes'} has train 4, val 2 images, but should have train 2975, val 500",
        f"domain idd: {data / 'idd'} has train 4, val 1 images, but should have train 6993, val 981",
        "--incomplete",
    )
    configs = [settings("cityscapes-idd", row, data) for row in ("univ-basic", "train-on-idd")]
    (cityscapes, idd) = check_data("cityscapes-idd", configs, data, incomplete=True)
    assert (cityscapes.images, idd.images) == ({"train": 4, "val": 2}, {"train": 4, "val": 1})


def test_the_doctor_looks_at_a_recipes_data(data: Path, fewmask: Fewmask) -> None:
    words = ["recipes", "check", "real-single", "supervised-msrc-n10", f"data={data}", "labelled.images=2"]
    done = fewmask(*words, "--incomplete", "--json")
    assert done.code == 0, done.err
    assert list(json.loads(done.out)["statistics"]) == ["msrc"]
    is_refused(fewmask(*words), "should have train 354, val 60, test 177")


# ── Beside them ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_beside_them_parse(path: Path) -> None:
    assert read_config(path).name == path.stem


def test_the_campaign_of_the_readme_parses() -> None:
    (block,) = re.findall(r"```yaml\n(campaign:.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    CampaignSettings.model_validate(yaml.safe_load(block)["campaign"])


def test_the_page_of_the_recipes_names_them_all_and_its_own_one_is_one() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in [*NAMES, *ONCE] if f"`{name}`" not in page] == []
    counts = {name: f"{len(r.table())} × {len(r.seeds)}" for name in NAMES if (r := recipes.read_recipe(name))}
    assert [name for name, count in counts.items() if not re.search(rf"`{name}` .*\| {count} \|", page)] == []
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    recipe = recipes.Recipe.model_validate(yaml.safe_load(block))
    assert list(recipe.table()) == ["supervised-n10", "supervised-n50", "entropy-min-n10", "entropy-min-n50"]
    for row in recipe.table():
        assert recipes.configuration(recipe, "own", row, Path()).domains.keys() == {"mine"}
