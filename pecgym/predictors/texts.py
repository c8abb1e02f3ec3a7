"""Texts as columns of numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import SpecError
from pecgym.workload.columns import TextColumn


def encoded(prompts: TextColumn, encoder: str, hash_bits: int, sentence_model: str | None) -> Any:
    """A row for each prompt: how long it is (logs of its characters and words), then, of tfidf, hashed counts of words,
    pairs of words and runs of 3 to 5 letters, sparse; of sentence, the embedding. encoder and others: as of TextModel.
    """
    sizes = _sizes(prompts)
    if encoder == "length":
        return sizes
    if encoder == "sentence":
        assert sentence_model is not None
        embeddings = _sentence_encoder(sentence_model).encode(list(prompts), show_progress_bar=False)
        return np.hstack([sizes, np.asarray(embeddings, np.float64)])
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    counted = {"n_features": 2**hash_bits, "alternate_sign": False, "norm": None}
    words = HashingVectorizer(ngram_range=(1, 2), **counted)
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **counted)
    parts = [csr_matrix(sizes), words.transform(prompts), letters.transform(prompts)]
    return hstack(parts, format="csr")


def weighted(columns: Any, weights: Any) -> Any:
    """What `encoded` gave, with its counts weighted by a fitted TfidfTransformer; without one, as it is."""
    if weights is None:
        return columns
    from scipy.sparse import hstack

    return hstack([columns[:, :2], weights.transform(columns[:, 2:])], format="csr")


def _sizes(prompts: TextColumn) -> NDArray[np.float64]:
    counts = np.asarray([(len(text), len(text.split())) for text in prompts], np.float64).reshape(-1, 2)
    return np.log1p(counts)


@cache
def _sentence_encoder(model: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise SpecError(f"text.encoder=sentence needs pip install -e '.[text]' ({error})") from error
    try:
        return SentenceTransformer(model, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError(f"text.sentence_model={model}: sentence-transformers cannot load it: {reason}") from error
