"""Scopes for prompts without a label, or with a coarse one: clusters of similar prompts, saved in a JSON file.

TF-IDF and k-means of scikit-learn: no embedding model to load, deterministic on every rank, and fast to assign.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer

from services.trainer.data.mapping import Example

_MAX_TERMS = 2_000
_DIGITS = 6
"""Of cluster centres in the file."""


class _LabelClusters(BaseModel):
    """The clusters of one label's prompts: TF-IDF terms, their weights, and each cluster's centre."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    terms: list[str]
    idf: list[float]
    centres: list[list[float]]


class Clusters:
    """Assigns a prompt to the scope `<label>/c<n>`, or `c<n>` if it has no label."""

    def __init__(self, by_label: dict[str, _LabelClusters]) -> None:
        self._by_label = by_label
        self._vectorizers = {label: _vectorizer(clusters) for label, clusters in by_label.items()}

    @classmethod
    def fit(cls, examples: Sequence[Example], count: int, seed: int) -> "Clusters":
        """Up to `count` clusters per label; fewer for a label with fewer distinct prompts."""
        prompts: defaultdict[str, list[str]] = defaultdict(list)
        for example in examples:
            prompts[example.scope or ""].append(example.prompt)
        return cls({label: _fit(texts, count, seed) for label, texts in sorted(prompts.items())})

    @classmethod
    def load(cls, path: str | Path) -> "Clusters":
        """Clusters written by `save`."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls({label: _LabelClusters.model_validate(clusters) for label, clusters in content.items()})

    def save(self, path: str | Path) -> None:
        """Write the clusters to a JSON file."""
        content = {label: clusters.model_dump() for label, clusters in self._by_label.items()}
        Path(path).write_text(json.dumps(content), encoding="utf-8")

    @property
    def scopes(self) -> list[str]:
        """All scopes, as a task pack lists them."""
        return [_name(label, n) for label, clusters in self._by_label.items() for n in range(len(clusters.centres))]

    def assign(self, example: Example) -> Example:
        """The example with the scope of its nearest cluster; unchanged if its label was not fitted."""
        label = example.scope or ""
        clusters = self._by_label.get(label)
        if clusters is None:
            return example
        vector = self._vectorizers[label].transform([example.prompt]).toarray()[0]
        distances = np.linalg.norm(np.asarray(clusters.centres) - vector, axis=1)
        return example._replace(scope=_name(label, int(distances.argmin())))


def _fit(prompts: Sequence[str], count: int, seed: int) -> _LabelClusters:
    vectorizer = TfidfVectorizer(max_features=_MAX_TERMS, stop_words="english", sublinear_tf=True)
    vectors = vectorizer.fit_transform(prompts)
    distinct = len({tuple(row.indices) for row in vectors})
    model = KMeans(n_clusters=min(count, distinct), random_state=seed, n_init=4).fit(vectors)
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    centres = [[round(float(value), _DIGITS) for value in centre] for centre in model.cluster_centers_]
    return _LabelClusters(terms=terms, idf=[float(value) for value in vectorizer.idf_], centres=centres)


def _vectorizer(clusters: _LabelClusters) -> TfidfVectorizer:
    vectorizer = TfidfVectorizer(vocabulary=clusters.terms, stop_words="english", sublinear_tf=True)
    vectorizer.idf_ = np.asarray(clusters.idf)
    return vectorizer


def _name(label: str, number: int) -> str:
    return f"{label}/c{number}" if label else f"c{number}"
