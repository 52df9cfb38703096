"""Siblings are asked one after the other, as many responses at a time as the server has slots."""

from services.reward.judge.engine.scheduling import interleave_siblings


def test_as_many_responses_in_turn_as_there_are_slots() -> None:
    conversations = [_conversation(response, n) for response in "abc" for n in range(3)]
    ordered = [conversations[position] for position in interleave_siblings(conversations, 2)]
    assert ordered == [_conversation(r, n) for n in range(3) for r in "ab"] + [_conversation("c", n) for n in range(3)]


def test_each_is_asked_once_whatever_their_number() -> None:
    conversations = [
        _conversation(response, n) for response, count in (("a", 3), ("b", 1), ("c", 2)) for n in range(count)
    ]
    for slots in (1, 2, 3, 9):
        assert sorted(interleave_siblings(conversations, slots)) == list(range(6))
    assert interleave_siblings(conversations, 1) == list(range(6))
    assert interleave_siblings([], 4) == []


def test_a_level_belongs_to_the_text_that_came_before_it() -> None:
    """After a rationale of its own, a conversation is nobody's sibling."""
    conversations = [(*_conversation("a", 0), text, "How many?") for text in ("x", "y")]
    assert interleave_siblings([*conversations, *conversations], 1) == [0, 2, 1, 3]


def _conversation(response: str, question: int) -> tuple[str, ...]:
    return ("Grade.", response, str(question))
