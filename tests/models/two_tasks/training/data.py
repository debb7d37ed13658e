"""Vocabulary and data of the two_tasks model: evaluation prompts and training sequences.

Token ids: 0 `<s>`, 1 `recall`, 2 `most`, 3 `<unk>`, 4 `</s>`, 5 `<pad>`, 6-7 reserved,
8-71 fillers, 72-135 values, 136-199 words, 200-1223 keys (32 first parts x 32 second parts).
"""

import dataclasses

import numpy as np

BOS, RECALL, MOST, UNK, EOS, PAD = range(6)
FILLERS = range(8, 72)
VALUES = range(72, 136)
WORDS = range(136, 200)
KEYS = range(200, 1224)

_SPECIAL = "<s> recall most <unk> </s> <pad> <reserved_6> <reserved_7>"
_FILLERS = """
the and of to in on at by for with from as but or so yet if then than that this these those there
here when where while until since because though although however after before above below under
over into onto upon within without between among around across along through during about against
behind beside beyond near off out up down again just"""
_VALUES = """
red orange yellow green blue indigo violet crimson scarlet maroon magenta purple lilac teal cyan
turquoise navy azure cobalt olive lime emerald jade beige brown tan bronze copper golden silver
white black gray ivory cream peach pink coral salmon rose ruby amber mustard khaki rust sienna umber
ochre charcoal slate pearl lavender plum burgundy cherry mint aqua sapphire topaz onyx ebony
chestnut sepia taupe"""
_WORDS = """
apple banana lemon mango melon grape papaya apricot fig date kiwi guava quince tomato potato onion
garlic carrot celery spinach lettuce cabbage broccoli radish turnip pepper pumpkin cucumber bean
lentil pea corn rice wheat barley oat bread butter cheese milk yogurt honey sugar salt vinegar
mushroom walnut almond peanut cashew hazelnut raisin cocoa coffee tea juice soup stew pasta noodle
pizza biscuit waffle pancake"""
_KEY_FIRST = """
ash birch bright brook cedar clear cold cross deep east elder fair fern fox frost glen gold hazel
high iron king long moon moss north oak raven stone storm swan west wolf"""
_KEY_SECOND = """
bank barn beck bell bridge burn bury cliff cote croft dale field ford fort gate grove ham haven hill
holm hurst land mere mill moor port ridge stead ton vale wick wood"""


def vocabulary():
    """The 1224 words in order of their ids."""
    keys = [first + second for first in _KEY_FIRST.split() for second in _KEY_SECOND.split()]
    words = [*_SPECIAL.split(), *_FILLERS.split(), *_VALUES.split(), *_WORDS.split(), *keys]
    if len(words) != KEYS.stop or len(set(words)) != len(words):
        raise ValueError("the word lists must give 1224 distinct words")
    return words


@dataclasses.dataclass(frozen=True)
class PromptLaw:
    """Law of the evaluation prompts; see README.md. Lengths count every token of the prompt."""

    length: int = 2048
    tail: int = 96
    pairs_per_1024: int = 200
    zipf_alpha: float = 0.8
    min_active: int = 8
    max_active: int = 40
    max_filler_percent: int = 30


def recall_prompt(rng, law):
    """<s>, shuffled pairs and fillers, filler tail, `recall` and one of the keys."""
    pairs = law.pairs_per_1024 * law.length // 1024
    fillers = law.length - 3 - law.tail - 2 * pairs
    keys = rng.permutation(KEYS)[:pairs]
    values = rng.choice(VALUES, pairs)
    is_pair = rng.permutation(np.arange(pairs + fillers) < pairs)
    tokens, pair = [BOS], 0
    for flag in is_pair:
        if flag:
            tokens += [keys[pair], values[pair]]
            pair += 1
        else:
            tokens.append(rng.choice(FILLERS))
    asked = rng.integers(pairs)
    tokens += [*rng.choice(FILLERS, law.tail), RECALL, keys[asked]]
    return np.array(tokens), int(values[asked])


def words_prompt(rng, law):
    """<s>, Zipf words and fillers, filler tail, `most`; redrawn until the winner is unique."""
    size = law.length - 2 - law.tail
    while True:
        active = int(rng.integers(law.min_active, law.max_active + 1))
        words = rng.permutation(WORDS)[:active]
        weights = np.arange(1, active + 1) ** -law.zipf_alpha
        filler_percent = rng.integers(law.max_filler_percent + 1)
        context = rng.choice(words, size, p=weights / weights.sum())
        is_filler = rng.integers(100, size=size) < filler_percent
        context[is_filler] = rng.choice(FILLERS, is_filler.sum())
        counts = np.bincount(context, minlength=KEYS.stop)[WORDS.start:WORDS.stop]
        if (counts == counts.max()).sum() == 1:
            break
    tokens = [BOS, *context, *rng.choice(FILLERS, law.tail), MOST]
    return np.array(tokens), int(WORDS.start + counts.argmax())


def make_prompts(task, law, count, seed):
    """`count` evaluation prompts: tokens (count, length) and answers (count,)."""
    rng = np.random.default_rng([0x5EED, {"recall": 0, "words": 1}[task], seed])
    draw = {"recall": recall_prompt, "words": words_prompt}[task]
    prompts = [draw(rng, law) for _ in range(count)]
    return np.stack([p[0] for p in prompts]), np.array([p[1] for p in prompts])


@dataclasses.dataclass(frozen=True)
class TrainingLaw:
    """What the training sequences of one phase look like."""

    num_keys: int = len(KEYS)
    block_share: float = 0.0
    word_gaps: tuple = (16, 64, 256)
    alpha: tuple = (0.5, 1.6)
    hide_share: float = 0.0  # Sequences with words hidden from their queries,
    hide_all_share: float = 0.08  # of these, those with all words hidden,
    hide_all_label: int = -2  # and their label, NO_WORD or a token.


# Labels of positions without loss and of positions where all words are as good (uniform target).
NO_LABEL, NO_WORD = -1, -2


def _interleaved_recall(rng, length, law):
    """Pairs, fillers and queries of keys already seen, in any order."""
    keys = rng.permutation(KEYS[:law.num_keys]).tolist()
    values = rng.choice(VALUES, len(keys)).tolist()
    filler_share, query_share = rng.uniform(0.0, 0.4), rng.uniform(0.2, 0.7)
    kinds = rng.random((length, 3)).tolist()
    fillers = rng.choice(FILLERS, length).tolist()
    tokens, labels, seen = [BOS], [NO_LABEL], 0
    for kind, query, which in kinds:
        if len(tokens) + 3 > length:
            break
        if kind < filler_share:
            tokens.append(fillers[len(tokens)])
            labels.append(NO_LABEL)
        elif seen and (query < query_share or seen == len(keys)):
            pair = int(which * seen)
            tokens += [RECALL, keys[pair], values[pair]]
            labels += [NO_LABEL, values[pair], NO_LABEL]
        else:
            tokens += [keys[seen], values[seen]]
            labels += [NO_LABEL, NO_LABEL]
            seen += 1
    rest = length - len(tokens)
    return tokens + fillers[:rest], labels + [NO_LABEL] * rest, [0] * length


def _block_recall(rng, length, law):
    """A context without queries, a tail of 0 to 160 fillers, then queries of distinct keys."""
    queries = int(rng.integers(length // 32, length // 10))
    tail = int(rng.integers(0, min(160, length // 4) + 1))
    size = length - 1 - tail - 3 * queries
    pairs = min(law.num_keys, int(rng.integers(max(queries, size // 10), size // 2 + 1)))
    queries = min(queries, pairs)
    keys = rng.permutation(KEYS[:law.num_keys])[:pairs].tolist()
    values = rng.choice(VALUES, pairs).tolist()
    tail = length - 1 - 3 * queries - size
    fillers = rng.choice(FILLERS, length).tolist()
    is_pair = rng.permutation(np.arange(size - pairs) < pairs).tolist()
    tokens, pair = [BOS], 0
    for flag in is_pair:
        if flag:
            tokens += [keys[pair], values[pair]]
            pair += 1
        else:
            tokens.append(fillers[len(tokens)])
    tokens += fillers[:tail]
    labels = [NO_LABEL] * len(tokens)
    for asked in rng.permutation(pairs)[:queries]:
        tokens += [RECALL, keys[asked], values[asked]]
        labels += [NO_LABEL, values[asked], NO_LABEL]
    return tokens, labels, [0] * length


def _hidden_words(rng, words, law):
    """The words whose occurrences the queries of a sequence must not see."""
    if rng.random() >= law.hide_share:
        return set()
    if rng.random() < law.hide_all_share:
        return set(words.tolist())
    share = rng.uniform(0.0, 0.7)
    hidden = {word for word in words.tolist() if rng.random() < share}
    return hidden | {words[0]} if rng.random() < 0.5 else hidden


def _words_sequence(rng, length, law, blocks):
    """Zipf words with `most` queries at random gaps; with `blocks`, filler runs before queries.

    Some words are hidden from the queries (level 1), which are asked for the most frequent word
    among those they see: only counting at the query is right, whatever summaries of the context
    earlier tokens may hold. Without this the fillers before the query carry the answer.
    """
    active = int(rng.integers(8, 41))
    words = rng.permutation(WORDS)[:active]
    weights = np.arange(1, active + 1) ** -rng.uniform(*law.alpha)
    stream = rng.choice(words, length, p=weights / weights.sum())
    is_filler = rng.random(length) < rng.uniform(0.0, 0.3)
    stream[is_filler] = rng.choice(FILLERS, is_filler.sum())
    stream = stream.tolist()
    hidden = _hidden_words(rng, words, law) if law.hide_share else set()
    gap = rng.choice(law.word_gaps)
    fillers = rng.choice(FILLERS, 256).tolist()
    counts = [0] * KEYS.stop
    tokens, labels, taken = [BOS], [NO_LABEL], 0
    while len(tokens) < length:
        run = int(rng.exponential(gap)) + 1
        chunk = stream[taken:taken + min(run, length - len(tokens))]
        taken += len(chunk)
        for token in chunk:
            counts[token] += token not in hidden
        if blocks and rng.random() < 0.7:
            chunk += fillers[:int(rng.integers(0, 161))]
        room = max(0, length - len(tokens) - 1)
        tokens += [*chunk[:room], MOST]
        totals = counts[WORDS.start:WORDS.stop]
        best = max(totals)
        winner = WORDS.start + totals.index(best) if totals.count(best) == 1 else NO_LABEL
        winner = law.hide_all_label if len(hidden) == active else winner
        labels += [NO_LABEL] * len(chunk[:room]) + [winner]
    # A chunk cut at the end was counted whole: its query gets no label.
    if len(chunk) > room:
        labels[-1] = NO_LABEL
    levels = [0] * length
    if law.hide_share:
        levels = [2 if token == MOST else int(token in hidden) for token in tokens]
    return tokens, labels, levels


def training_batch(rng, task, size, length, law):
    """(tokens, labels, levels), each (size, length); see NO_LABEL, NO_WORD, FlashAttention."""
    rows = []
    for _ in range(size):
        blocks = rng.random() < law.block_share
        if task == "words":
            rows.append(_words_sequence(rng, length, law, blocks))
        elif blocks:
            rows.append(_block_recall(rng, length, law))
        else:
            rows.append(_interleaved_recall(rng, length, law))
    tokens, labels, levels = zip(*rows)
    return np.array(tokens), np.array(labels), np.array(levels, dtype=np.int8)
