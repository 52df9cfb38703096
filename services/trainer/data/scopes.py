"""Scopes for prompts that have no label, or a coarse one: clusters of alike prompts, kept in a JSON file.

TF-IDF and k-means, by scikit-learn: no model to load, the same on every rank, and quick to assign.
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

_TERMS = 2_000
_DIGITS = 6


class _Fitted(BaseModel):
    """The terms of a label's prompts, their weights, and the centre of each cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    terms: list[str]
    idf: list[float]
    centres: list[list[float]]


class Clusters:
    """Puts a prompt into a scope `<label>/c<n>`, or `c<n>` where it has no label."""

    def __init__(self, fitted: dict[str, _Fitted]) -> None:
        self._fitted = fitted
        self._vectorizers = {label: _vectorizer(part) for label, part in fitted.items()}

    @classmethod
    def fit(cls, examples: Sequence[Example], count: int, seed: int) -> "Clusters":
        """Up to `count` clusters for each label; fewer for a label of few different prompts."""
        labelled: defaultdict[str, list[str]] = defaultdict(list)
        for example in examples:
            labelled[example.scope or ""].append(example.prompt)
        return cls({label: _fit(prompts, count, seed) for label, prompts in sorted(labelled.items())})

    @classmethod
    def load(cls, path: str | Path) -> "Clusters":
        """Clusters as `save` left them."""
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls({label: _Fitted.model_validate(part) for label, part in told.items()})

    def save(self, path: str | Path) -> None:
        """Write them to a JSON file."""
        told = {label: part.model_dump() for label, part in self._fitted.items()}
        Path(path).write_text(json.dumps(told), encoding="utf-8")

    @property
    def scopes(self) -> list[str]:
        """Every scope there is, as a task pack lists them."""
        return [_name(label, n) for label, part in self._fitted.items() for n in range(len(part.centres))]

    def place(self, example: Example) -> Example:
        """The example in its scope; one of a label that was not fitted keeps its label."""
        label = example.scope or ""
        part = self._fitted.get(label)
        if part is None:
            return example
        vector = self._vectorizers[label].transform([example.prompt]).toarray()[0]
        distances = np.linalg.norm(np.asarray(part.centres) - vector, axis=1)
        return example._replace(scope=_name(label, int(distances.argmin())))


def _fit(prompts: Sequence[str], count: int, seed: int) -> _Fitted:
    vectorizer = TfidfVectorizer(max_features=_TERMS, stop_words="english", sublinear_tf=True)
    vectors = vectorizer.fit_transform(prompts)
    different = len({tuple(row.indices) for row in vectors})
    model = KMeans(n_clusters=min(count, different), random_state=seed, n_init=4).fit(vectors)
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    centres = [[round(float(value), _DIGITS) for value in centre] for centre in model.cluster_centers_]
    return _Fitted(terms=terms, idf=[float(value) for value in vectorizer.idf_], centres=centres)


def _vectorizer(part: _Fitted) -> TfidfVectorizer:
    vectorizer = TfidfVectorizer(vocabulary=part.terms, stop_words="english", sublinear_tf=True)
    vectorizer.idf_ = np.asarray(part.idf)
    return vectorizer


def _name(label: str, number: int) -> str:
    return f"{label}/c{number}" if label else f"c{number}"
