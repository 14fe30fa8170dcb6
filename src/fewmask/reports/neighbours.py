"""The sections of the embeddings: the same pixels before and after the alignment, and similar classes of domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from fewmask.data.domain import Domain
from fewmask.document.maps import SHAPES, Cloud, class_colour, heat_map, scatter
from fewmask.document.model import Block, Chart, Charts, Key, Note, Section, Table
from fewmask.labels import meanings, shared_classes
from fewmask.reports.space import FEWEST, Cells, class_similarity, tsne
from fewmask.reports.words import cosine, whole

PLACING = 20  # steps of the progress that a picture takes
PAIRS = 10  # of domains that are drawn


@dataclass(frozen=True)
class EmbeddingViews:
    """The vectors of the same cells in several networks. `names` are those of the networks, the finished one last."""

    names: Sequence[str]
    cells: Cells
    description: str
    """A description of the vectors."""


def neighbours(
    views: EmbeddingViews | None,
    domains: Mapping[str, Domain],
    synonyms: Sequence[Sequence[str]],
    without: Sequence[Note],
    seed: int = 0,
    step: Callable[[int], object] = lambda done: None,
) -> list[Section]:
    """The section of the pictures, and the section of the similarities."""
    title, alike = "Embeddings", "Across domains"
    if views is None:
        return [Section("space", title, without), Section("similarity", alike, without)]
    shared = shared_classes({n: d.space for n, d in domains.items()}, synonyms)
    space = Section(
        "space", title, [*_pictures(views, domains, synonyms, shared, seed, step), *without], _lead(views, domains)
    )
    return [space, Section("similarity", alike, [*_similarities(views, domains, shared), *without])]


def _lead(views: EmbeddingViews, domains: Mapping[str, Domain]) -> str:
    shape = ", ".join(f"{SHAPES[i % 8]}s are {name}" for i, name in enumerate(domains))
    marked = " A ring before a name marks a class that no other domain has." if len(domains) > 1 else ""
    cells = f"{views.description} of {whole(len(views.cells.label))} labelled cells by t-SNE"
    return f"{cells}, coloured by class: {shape}.{marked}"


def _pictures(
    views: EmbeddingViews,
    domains: Mapping[str, Domain],
    synonyms: Sequence[Sequence[str]],
    shared: Mapping[str, frozenset[str]],
    seed: int,
    step: Callable[[int], object],
) -> list[Block]:
    if len(views.cells.label) < FEWEST:
        return [Note(f"A picture of the embeddings: fewer than {FEWEST} labelled cells were found.", "missing")]
    meaning = {name: min(group) for name, group in meanings(synonyms).items()}
    different = list(dict.fromkeys(meaning.get(c, c) for d in domains.values() for c in d.space.names))
    coloured = {m: Key(m, colour=class_colour(i)) for i, m in enumerate(different)}
    shown_names: set[str] = set()
    charts = []
    for name, vectors in zip(views.names, views.cells.vectors, strict=True):
        places, clouds, first = tsne(vectors, seed), [], 0
        step(PLACING)
        for shape, domain in enumerate(domains.values()):
            for c, class_name in enumerate(domain.space.names):
                cells = places[views.cells.label == first + c]
                if len(cells):
                    key = coloured[meaning.get(class_name, class_name)]
                    private = len(domains) > 1 and class_name not in shared[domain.name]
                    clouds.append(Cloud(f"{domain.name}: {class_name}", cells, str(key.colour), shape, private))
                    shown_names.add(key.name)
            first += domain.space.num_classes
        words = f"{len(clouds)} clouds of points, one for each class of each domain."
        charts.append(scatter(name[0].upper() + name[1:], clouds, description=words))
    keys = [Key(name, shape=str(i % 8)) for i, name in enumerate(domains)] if len(domains) > 1 else []
    keys += [key for name, key in coloured.items() if name in shown_names]
    note = (
        "Near points are similar. The size of a cloud and the distance between clouds have little meaning. Every "
        "picture shows the same pixels."
    )
    return [Charts([replace(chart, keys=keys) for chart in charts]), Note(note)]


def _similarities(
    views: EmbeddingViews, domains: Mapping[str, Domain], shared: Mapping[str, frozenset[str]]
) -> list[Block]:
    if len(domains) < 2:
        return [
            Note("Similarity between domains: this run has one domain, there is nothing to compare it with.", "missing")
        ]
    names = [(domain, c) for domain in domains.values() for c in domain.space.names]
    if not len(views.cells.label):
        return [Note("Similarity between domains: no labelled cell was found.", "missing")]
    similarity = class_similarity(views.cells, len(views.names) - 1, len(names))
    before = class_similarity(views.cells, 0, len(names)) if len(views.names) > 1 else None
    start = dict(zip(domains, np.cumsum([0, *(d.space.num_classes for d in domains.values())]).tolist(), strict=False))
    pairs = list(combinations(domains, 2))
    charts = [_heat(views, similarity, start, domains[a], domains[b], shared) for a, b in pairs[:PAIRS]]
    more = [Note(f"{PAIRS} of {len(pairs)} pairs of domains; the table has all.")] if len(pairs) > PAIRS else []
    return [Charts(charts), *more, _nearest(similarity, before, names, shared)]


def _heat(
    views: EmbeddingViews,
    similarity: np.ndarray,
    start: Mapping[str, int],
    first: Domain,
    second: Domain,
    shared: Mapping[str, frozenset[str]],
) -> Chart:
    rows, columns = first.space.names, second.space.names
    part = similarity[start[first.name] :][: len(rows), start[second.name] :][:, : len(columns)]
    values = [[None if np.isnan(v) else float(v) for v in row] for row in part]
    marked = [[c not in shared[d.name] for c in d.space.names] for d in (first, second)]
    best = sorted(((v, r, c) for r, row in zip(rows, values, strict=True) for c, v in zip(columns, row, strict=True)
                   if v is not None), reverse=True)[:3]  # fmt: skip
    words = "Most alike: " + "; ".join(f"{r} and {c} ({cosine(v)})" for v, r, c in best)
    table = Table(
        ("class", *columns),
        [[r, *("–" if v is None else cosine(v) for v in row)] for r, row in zip(rows, values, strict=True)],
    )
    return heat_map(
        f"{first.name} × {second.name}", rows, columns, values, second.name, first.name, format_value=cosine,
        marked=(marked[0], marked[1]), description=words, table=table, diverging=True,
        caption=f"Cosine × 100 between the classes' mean vectors ({views.names[-1]}), less the mean of all classes. "
        "A ring: no other domain has this class.",
    )  # fmt: skip


def _nearest(
    similarity: np.ndarray,
    before: np.ndarray | None,
    names: Sequence[tuple[Domain, str]],
    shared: Mapping[str, frozenset[str]],
) -> Table:
    """A table with the nearest class of another domain for every class."""
    rows = []
    for i, (domain, name) in enumerate(names):
        others = [
            j
            for j, (other_domain, _) in enumerate(names)
            if other_domain.name != domain.name and not np.isnan(similarity[i, j])
        ]
        if not others or np.isnan(similarity[i, others]).all():
            continue
        best = max(others, key=lambda j: similarity[i, j])
        kind = "shared" if name in shared[domain.name] else "private"
        row = [f"{domain.name}: {name}", f"{names[best][0].name}: {names[best][1]}", kind, cosine(similarity[i, best])]
        rows.append(row + ([cosine(before[i, best])] if before is not None else []))
    head = ["class", "nearest of another domain", "the class is", "similarity"]
    head += ["before"] if before is not None else []
    return Table(head, rows, caption="Every class and its nearest in another domain", text_columns=3)
