"""The embedding section: the same pixels before and after the alignment, and which classes of two domains are alike."""

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
class Views:
    """What the networks made of the same cells; `names` says which networks these are, the finished one last."""

    names: Sequence[str]
    cells: Cells
    what: str
    """What the vectors are, in words."""


def neighbours(
    views: Views | None,
    domains: Mapping[str, Domain],
    synonyms: Sequence[Sequence[str]],
    without: Sequence[Note],
    seed: int = 0,
    step: Callable[[int], object] = lambda done: None,
) -> list[Section]:
    """The section of the pictures, and that of the similarities."""
    title, alike = "Embeddings", "Across domains"
    if views is None:
        return [Section("space", title, without), Section("similarity", alike, without)]
    shared = shared_classes({n: d.space for n, d in domains.items()}, synonyms)
    space = Section(
        "space", title, [*_pictures(views, domains, synonyms, shared, seed, step), *without], _lead(views, domains)
    )
    return [space, Section("similarity", alike, [*_similarities(views, domains, shared), *without])]


def _lead(views: Views, domains: Mapping[str, Domain]) -> str:
    shape = ", ".join(f"{SHAPES[i % 8]}s are {name}" for i, name in enumerate(domains))
    marked = " A ring before a name marks a class that no other domain has." if len(domains) > 1 else ""
    return (
        f"{views.what} of {whole(len(views.cells.label))} labelled cells by t-SNE, coloured by class: {shape}.{marked}"
    )


def _pictures(
    views: Views,
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
    shown: set[str] = set()
    charts = []
    for name, vectors in zip(views.names, views.cells.vectors, strict=True):
        places, clouds, first = tsne(vectors, seed), [], 0
        step(PLACING)
        for shape, domain in enumerate(domains.values()):
            for c, of in enumerate(domain.space.names):
                own = places[views.cells.label == first + c]
                if len(own):
                    key = coloured[meaning.get(of, of)]
                    private = len(domains) > 1 and of not in shared[domain.name]
                    clouds.append(Cloud(f"{domain.name}: {of}", own, str(key.colour), shape, private))
                    shown.add(key.name)
            first += domain.space.num_classes
        words = f"{len(clouds)} clouds of points, one for each class of each domain."
        charts.append(scatter(name[0].upper() + name[1:], clouds, description=words))
    keys = [Key(name, shape=str(i % 8)) for i, name in enumerate(domains)] if len(domains) > 1 else []
    keys += [key for name, key in coloured.items() if name in shown]
    note = (
        "Near means alike; how large a cloud is and how far two of them are apart means little. The same pixels in "
        "every picture."
    )
    return [Charts([replace(chart, keys=keys) for chart in charts]), Note(note)]


def _similarities(views: Views, domains: Mapping[str, Domain], shared: Mapping[str, frozenset[str]]) -> list[Block]:
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
    views: Views,
    similarity: np.ndarray,
    start: Mapping[str, int],
    one: Domain,
    other: Domain,
    shared: Mapping[str, frozenset[str]],
) -> Chart:
    rows, columns = one.space.names, other.space.names
    part = similarity[start[one.name] :][: len(rows), start[other.name] :][:, : len(columns)]
    values = [[None if np.isnan(v) else float(v) for v in row] for row in part]
    marked = [[c not in shared[d.name] for c in d.space.names] for d in (one, other)]
    best = sorted(((v, r, c) for r, row in zip(rows, values, strict=True) for c, v in zip(columns, row, strict=True)
                   if v is not None), reverse=True)[:3]  # fmt: skip
    words = "Most alike: " + "; ".join(f"{r} and {c} ({cosine(v)})" for v, r, c in best)
    table = Table(
        ("class", *columns),
        [[r, *("–" if v is None else cosine(v) for v in row)] for r, row in zip(rows, values, strict=True)],
    )
    return heat_map(
        f"{one.name} × {other.name}", rows, columns, values, other.name, one.name, format_value=cosine,
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
    """For every class the nearest one of another domain."""
    rows = []
    for i, (domain, name) in enumerate(names):
        others = [j for j, (of, _) in enumerate(names) if of.name != domain.name and not np.isnan(similarity[i, j])]
        if not others or np.isnan(similarity[i, others]).all():
            continue
        best = max(others, key=lambda j: similarity[i, j])
        kind = "shared" if name in shared[domain.name] else "private"
        row = [f"{domain.name}: {name}", f"{names[best][0].name}: {names[best][1]}", kind, cosine(similarity[i, best])]
        rows.append(row + ([cosine(before[i, best])] if before is not None else []))
    head = ["class", "nearest of another domain", "the class is", "similarity"]
    head += ["before"] if before is not None else []
    return Table(head, rows, caption="Every class and its nearest in another domain", text_columns=3)
