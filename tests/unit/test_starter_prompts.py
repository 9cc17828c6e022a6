"""What the benchmark of the starter model asks for."""

from collections import Counter

from benchmarks.starter import prompts as asking
from workers.training.compositions import BACKGROUNDS, TEMPLATES, held_out

NAMES = tuple(f"item {number}" for number in range(206))


def test_prompts_are_balanced_and_unseen() -> None:
    """Items, colours and templates come equally often, of pairs that were trained on."""
    without = held_out(NAMES, BACKGROUNDS)
    prompts = asking.balanced(NAMES, 500, without)
    for of in ("item", "colour"):
        times = Counter(getattr(prompt, of) for prompt in prompts).values()
        assert max(times) - min(times) <= 1
    pairs = {(prompt.item, prompt.colour) for prompt in prompts}
    assert len(pairs) == 500
    assert not pairs & without
    assert len({prompt.seed for prompt in prompts}) == 500
    assert not set(asking.TEMPLATES) & set(TEMPLATES)
    assert prompts == asking.balanced(NAMES, 500, without)


def test_each_prompt_says_what_is_to_be_seen() -> None:
    """Item and colour are in every template."""
    said = asking.of_pairs([("ice skate", "orange")] * len(asking.TEMPLATES), seed=7)
    assert len({prompt.text for prompt in said}) == len(asking.TEMPLATES)
    assert all("ice skate" in prompt.text and "orange" in prompt.text for prompt in said)
    assert [prompt.seed for prompt in said] == [*range(7, 7 + len(said))]
