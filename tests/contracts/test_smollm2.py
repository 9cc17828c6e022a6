"""The embedded language model: what a new installation writes with."""

import json
from typing import Any
from uuid import uuid4

import pytest

from jobs.kinds.answers import read_answer
from jobs.kinds.recipes import recipes
from jobs.kinds.text import TEXT
from storage.models import BUILT_IN
from tests.contracts.test_causal_lm import FAMILY, made
from workers.family import Device, Item, Output
from workers.files import files_of

CARD = BUILT_IN["smollm2"]


def test_what_it_writes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A headline about its subject, the mood of two texts, and a quiz that is one."""
    files = files_of(CARD, tmp_path_factory.getbasetemp() / "cache")
    model = FAMILY.load(files, CARD, Device("cpu"))

    def written(*requests: dict[str, Any]) -> list[Output]:
        items = [Item(uuid4(), TEXT.resolve(TEXT.Request(**r), CARD)) for r in requests]
        return made(model, *items)

    headline, quiz = written(dict(TEXT.example), {"recipe": "quiz", "text": "apples", "seed": 1})
    text = headline.data.decode()
    assert "apple" in text.lower()
    assert "\n" not in text
    assert headline.facts["finish_reason"] == "stop"
    schema = recipes()["quiz"].json_schema
    assert schema is not None
    assert len(read_answer(quiz.data.decode(), schema)["questions"]) == 2
    moods = written(
        {"recipe": "sentiment", "text": "I love this mug, it is perfect.", "seed": 1},
        {"recipe": "sentiment", "text": "Terrible quality, never again!", "seed": 1},
    )
    assert [json.loads(mood.data)["label"] for mood in moods] == ["positive", "negative"]
    FAMILY.unload(model)
