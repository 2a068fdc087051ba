"""From numbers to answers: what an artifact's outputs say of the texts it was given. Pure functions on arrays.

    find = ANSWERS["fill-mask"].find
    find(outputs, question)  # -> Words

Each task of `ANSWERS` has one function; a new task is a new row there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from bertx.tokenizer import Tokenizer

    Array = np.ndarray[Any, Any]

#: numbers of an embedding that are shown
SHOWN = 8
#: tokens of the longest answer to a question
LONGEST_ANSWER = 30


@dataclass(frozen=True)
class Row:
    """A text as the model got it. `whole` is its number of tokens before it was cut."""

    text: str
    ids: tuple[int, ...]
    segments: tuple[int, ...]
    whole: int

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "tokens": len(self.ids), "truncated": self.whole > len(self.ids)}


@dataclass(frozen=True)
class Question:
    """What was asked: rows in the order of the batch, how to read ids back, and the checkpoint's configuration.

    `context` is the token at which the second text of a pair begins, `top` how many words or labels are wanted.
    """

    rows: tuple[Row, ...]
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    top: int
    context: int = 0

    def mask(self, width: int) -> Array:
        """(batch, width): 1 at tokens, 0 at padding."""
        import numpy as np

        return np.array([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in self.rows])

    def token(self, number: int) -> str:
        """A token as the vocabulary has it; many models count further than their vocabulary goes."""
        return self.tokenizer.tokens([number])[0]

    def word(self, number: int) -> str:
        """A token as a person reads it."""
        return self.tokenizer.decode([number]).strip() or self.token(number)


@dataclass(frozen=True)
class Similarity:
    """Embeddings: their norms, their first numbers and, of more than one, the cosine of each pair."""

    kind: ClassVar[str] = "similarity"

    output: str
    pooling: str | None
    size: int
    norms: tuple[float, ...]
    first: tuple[tuple[float, ...], ...]
    cosines: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class Word:
    """A word for a mask token: `token` as the vocabulary has it, `word` as a person reads it."""

    token: str
    word: str
    id: int
    probability: float


@dataclass(frozen=True)
class Mask:
    """The best words for one mask token: the text's number from 0, the token's position in it."""

    text: int
    position: int
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Words:
    """The best words for every mask token."""

    kind: ClassVar[str] = "words"

    masks: tuple[Mask, ...]


@dataclass(frozen=True)
class Label:
    """A label with its probability, or with the bare number of a regression."""

    label: str
    score: float


@dataclass(frozen=True)
class Labels:
    """The best labels of each text. `function` made the scores: softmax, sigmoid or none."""

    kind: ClassVar[str] = "labels"

    function: str
    texts: tuple[tuple[Label, ...], ...]


@dataclass(frozen=True)
class TokenLabel:
    """The best label of a token."""

    token: str
    label: str
    probability: float


@dataclass(frozen=True)
class TokenLabels:
    """The best label of each token of each text, special tokens left out."""

    kind: ClassVar[str] = "token-labels"

    texts: tuple[tuple[TokenLabel, ...], ...]


@dataclass(frozen=True)
class Span:
    """The best answer to a question: tokens `start` to `end` (included) of the pair."""

    kind: ClassVar[str] = "span"

    answer: str
    probability: float
    start: int
    end: int


Answer = Similarity | Words | Labels | TokenLabels | Span


def to_json(answer: Answer) -> dict[str, Any]:
    """An answer as bertx.try/1 holds it."""
    return {"kind": answer.kind, **asdict(answer)}


def embedded(outputs: Mapping[str, Array], question: Question) -> Similarity:
    """Compares sentence_embedding (batch, size), pooled by the model itself."""
    return _compared("sentence_embedding", None, outputs["sentence_embedding"])


def averaged(outputs: Mapping[str, Array], question: Question) -> Similarity:
    """Compares the mean of last_hidden_state (batch, sequence, size) over each text's tokens."""
    states = outputs["last_hidden_state"].astype("float64")
    mask = question.mask(states.shape[1])[:, :, None]
    pooled = (states * mask).sum(axis=1) / mask.sum(axis=1)
    return _compared("last_hidden_state", "mean over the tokens of each text", pooled)


def words(outputs: Mapping[str, Array], question: Question) -> Words:
    """The `top` most probable words for each mask token, from logits (batch, sequence, vocabulary)."""
    masks = []
    for number, row in enumerate(question.rows):
        for position in (k for k, token in enumerate(row.ids) if token == question.tokenizer.mask):
            chances = softmax(outputs["logits"][number, position])
            best = tuple(_word(question, int(token), float(chances[token])) for token in _best(chances, question.top))
            masks.append(Mask(number, position, best))
    return Words(tuple(masks))


def labels(outputs: Mapping[str, Array], question: Question) -> Labels:
    """The `top` labels of each text, from logits (batch, labels); scored as the configuration's problem_type says."""
    logits = outputs["logits"].astype("float64")
    function, score = _scoring(question.config.get("problem_type"), logits.shape[-1])
    names = label_names(question.config, logits.shape[-1])
    texts = []
    for numbers in logits:
        scores = score(numbers)
        texts.append(tuple(Label(names[k], float(scores[k])) for k in _best(scores, question.top)))
    return Labels(function, tuple(texts))


def token_labels(outputs: Mapping[str, Array], question: Question) -> TokenLabels:
    """The best label of each token that is not special, from logits (batch, sequence, labels)."""
    logits = outputs["logits"]
    names = label_names(question.config, logits.shape[-1])
    texts = []
    for number, row in enumerate(question.rows):
        found = []
        for position, token in enumerate(row.ids):
            if token in question.tokenizer.special:
                continue
            chances = softmax(logits[number, position])
            best = int(chances.argmax())
            found.append(TokenLabel(question.word(token), names[best], float(chances[best])))
        texts.append(tuple(found))
    return TokenLabels(tuple(texts))


def span(outputs: Mapping[str, Array], question: Question) -> Span:
    """The most probable span of the context, from start and end logits or both as (batch, sequence, 2)."""
    import numpy as np

    row = question.rows[0]
    stacked = outputs.get("logits")
    pair = (
        (stacked[..., 0], stacked[..., 1]) if stacked is not None else (outputs["start_logits"], outputs["end_logits"])
    )
    special = np.array([k < question.context or token in question.tokenizer.special for k, token in enumerate(row.ids)])
    start, end = (softmax(np.where(special, -np.inf, logits[0, : len(row.ids)].astype("float64"))) for logits in pair)
    chances = np.triu(start[:, None] * end[None, :])
    chances -= np.triu(chances, LONGEST_ANSWER)
    first, last = (int(place) for place in np.unravel_index(int(chances.argmax()), chances.shape))
    answer = question.tokenizer.decode(row.ids[first : last + 1]).strip()
    return Span(answer, float(chances[first, last]), first, last)


def softmax(logits: Array) -> Array:
    """Probabilities from logits along the last axis, in float64."""
    import numpy as np

    raised = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def label_names(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The labels of a configuration by number; LABEL_k, as transformers has it, where it names none."""
    named = config.get("id2label")
    named = named if isinstance(named, dict) else {}
    return tuple(str(named.get(str(k), f"LABEL_{k}")) for k in range(count))


def _compared(output: str, pooling: str | None, embeddings: Array) -> Similarity:
    import numpy as np

    rows = embeddings.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    units = rows / np.maximum(norms, 1e-12)[:, None]
    cosines = tuple(tuple(row) for row in (units @ units.T).tolist()) if len(rows) > 1 else None
    first = tuple(tuple(row) for row in rows[:, :SHOWN].tolist())
    return Similarity(output, pooling, rows.shape[1], tuple(norms.tolist()), first, cosines)


def _scoring(problem: Any, count: int) -> tuple[str, Callable[[Array], Array]]:
    """As transformers' own text-classification pipeline chooses."""
    if problem == "regression":
        return "none", lambda logits: logits
    if problem == "multi_label_classification" or count == 1:
        return "sigmoid", _sigmoid
    return "softmax", softmax


def _sigmoid(logits: Array) -> Array:
    import numpy as np

    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def _best(scores: Array, top: int) -> list[int]:
    """The places of the `top` highest scores, the highest first."""
    return [int(k) for k in (-scores).argsort(kind="stable")[:top]]


def _word(question: Question, token: int, probability: float) -> Word:
    return Word(question.token(token), question.word(token), token, probability)


@dataclass(frozen=True)
class Kind:
    """How a task is answered: the outputs that are needed, any one set of them, and the function that reads them."""

    needs: tuple[frozenset[str], ...]
    find: Callable[[Mapping[str, Array], Question], Answer]

    def readable(self, outputs: Sequence[str]) -> bool:
        """Whether an artifact with these outputs can be asked."""
        return any(need <= set(outputs) for need in self.needs)


_LOGITS = frozenset({"logits"})

ANSWERS: dict[str, Kind] = {
    "sentence-similarity": Kind((frozenset({"sentence_embedding"}),), embedded),
    "feature-extraction": Kind((frozenset({"last_hidden_state"}),), averaged),
    "fill-mask": Kind((_LOGITS,), words),
    "text-classification": Kind((_LOGITS,), labels),
    "token-classification": Kind((_LOGITS,), token_labels),
    "question-answering": Kind((frozenset({"start_logits", "end_logits"}), _LOGITS), span),
}
