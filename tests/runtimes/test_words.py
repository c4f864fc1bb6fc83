"""What a speech network says, read as segments and words, and the borders of pieces joined."""

import itertools

import numpy as np
import torch
from support.whisper import TIME, TOKENS, say, tiny_whisper
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from gearshift.runtimes.speech.alignment import token_frames, warp
from gearshift.runtimes.speech.rules import Rules
from gearshift.runtimes.speech.stitch import stitched
from gearshift.runtimes.speech.tokens import Tokens
from gearshift.runtimes.speech.words import Segment, Word, read_output

# outputs


def test_an_output_is_read_as_segments_and_words():
    reading = read_output([TIME, 1, 2, TIME + 50, TIME + 50, 3, TIME + 100], 2.5, TOKENS, say)
    assert [(s.text, s.start, s.end) for s in reading.segments] == [(" w1 w2", 0.0, 1.0), (" w3", 1.0, 2.0)]
    assert [(w.text, w.start, w.end) for w in reading.segments[0].words] == [(" w1", 0.0, 0.5), (" w2", 0.5, 1.0)]
    assert (reading.reached, reading.unfinished) == (2.0, False)


def test_what_an_output_leaves_out_is_seen():
    assert read_output([TIME, 1, TIME + 50, TIME + 50], 9.0, TOKENS, say).unfinished
    cut = read_output([TIME, 1, TIME + 50, TIME + 60, 2], 9.0, TOKENS, say)
    assert (cut.reached, cut.unfinished, cut.segments[-1].end) == (9.0, False, 9.0)
    full = read_output([*[TIME, 1, TIME + 50] * 70, *[2] * 14], 90.0, TOKENS, say)
    assert (len(full.segments), full.reached, full.unfinished) == (70, 1.0, True)
    assert read_output([], 9.0, TOKENS, say).segments == ()


def test_words_are_told_apart_by_spaces_and_marks_stay_with_them():
    letters = list(" Oh, (dear) me")
    reading = read_output(
        [TIME, *range(len(letters)), TIME + 50], 1.0, TOKENS, lambda t: "".join(letters[n] for n in t)
    )
    assert [w.text for w in reading.segments[0].words] == [" Oh,", " (dear)", " me"]
    assert [w.key for w in reading.segments[0].words] == ["oh", "dear", "me"]


def test_characters_of_several_tokens_stay_whole_without_spaces():
    raw = "こん。".encode()
    reading = read_output(
        [TIME, *range(len(raw)), TIME + 50],
        1.0,
        TOKENS,
        lambda t: bytes(raw[n] for n in t).decode(errors="replace"),
        True,
    )
    assert [w.text for w in reading.segments[0].words] == ["こ", "ん。"]


def test_the_rules_are_those_of_transformers():
    model, _ = tiny_whisper()
    config, tokens = model.generation_config, Tokens.of(model.config, model.generation_config)
    theirs = WhisperTimeStampLogitsProcessor(config, begin_index=1)
    words, rows = model.config.vocab_size, 5
    rules, draw = Rules(tokens, words, rows, torch.device("cpu")), torch.Generator().manual_seed(0)
    said = torch.full((rows, 1), tokens.start)
    for step in range(40):
        logits = 3 * torch.randn(rows, words, generator=draw)
        logits[:, [*tokens.banned, *(tokens.banned_first if step == 0 else ())]] = -torch.inf
        mine = rules(logits)
        wanted = theirs(said, logits).isfinite()
        assert torch.equal(mine.isfinite(), wanted)
        token = torch.multinomial(mine.exp(), 1, generator=draw)
        token[token == tokens.end] = 5  # go on
        token = torch.where(wanted.gather(1, token), token, mine.argmax(-1, keepdim=True))
        rules.take(token[:, 0])
        said = torch.cat([said, token], dim=1)


# borders


def segments(words, start=0.0, length=0.5):
    parts = [Word((), f" {w}", start + n * length, start + (n + 1) * length) for n, w in enumerate(words.split())]
    return [Segment(tuple(parts), parts[0].start, parts[-1].end)]


def text(found):
    return "".join(s.text for s in found).strip()


def test_overlapping_texts_join_where_they_say_the_same():
    left, right = segments("a b c d e f gar"), segments("ish d e f g h", 1.0)
    assert text(stitched(left, right, 1.0, 3.5)) == "a b c d e f g h"


def test_words_that_come_twice_are_joined_at_their_time():
    left, right = segments("so it goes and so it goes"), segments("so it goes on", 2.0)
    assert text(stitched(left, right, 2.0, 3.5)) == "so it goes and so it goes on"


def test_without_a_common_word_the_middle_of_the_overlap_decides():
    left, right = segments("a b c d"), segments("x y z", 1.0)
    assert text(stitched(left, right, 1.0, 2.0)) == "a b c y z"


def test_texts_that_only_touch_are_joined_whole():
    left, right = segments("a b c"), segments("x y z", 1.2)
    assert text(stitched(left, right, 1.2, 1.2, 0.4)) == "a b c x y z"
    assert text(stitched(left, segments("b c d", 0.6), 1.2, 1.2, 0.4)) == "a b c d"


def test_a_segment_that_loses_words_keeps_the_times_of_the_others():
    left = segments("a b c d")
    joined = stitched(left, segments("c d e", 1.0), 1.0, 2.0)
    assert [(s.start, s.end) for s in joined] == [(0.0, 1.5), (1.5, 2.5)]


def test_the_cheapest_path_is_found():
    cost = np.random.default_rng(0).normal(size=(4, 5))
    rows, columns = warp(cost)
    best = min(sum(cost[cell] for cell in path) for path in _paths(4, 5))
    assert np.isclose(cost[rows, columns].sum(), best)
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 3, 4)


def _paths(n, m, at=(0, 0)):
    if at == (n - 1, m - 1):
        yield [at]
    for step in ((1, 1), (1, 0), (0, 1)):
        then = (at[0] + step[0], at[1] + step[1])
        if then[0] < n and then[1] < m:
            yield from ([at, *rest] for rest in _paths(n, m, then))


def test_tokens_begin_where_the_attention_moves_to_them():
    borders, frames = [0, 20, 50, 60, 90], 120
    weights = np.full((3, 5, frames), 0.01)
    for row, (start, end) in enumerate(itertools.pairwise([*borders, frames])):
        weights[:, row, start:end] = 1.0
    assert np.abs(token_frames(weights / weights.sum(-1, keepdims=True)) - borders).max() <= 3
