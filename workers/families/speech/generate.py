"""Texts spoken one by one, sentence by sentence."""

from collections.abc import Iterator, Sequence

import numpy as np

from jobs.kinds.speech import SpeechRequest
from workers import sound
from workers.families.speech.engine import UnsayableError
from workers.families.speech.load import Loaded
from workers.family import Context, Item, JobError, Output


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """A sound file for each of ``items``; a step is a sentence."""
    assert model.engine is not None
    texts: dict[int, list[str]] = {}
    for index, item in enumerate(items):
        request = _request(item)
        try:
            texts[index] = model.engine.sentences(request.text, _voice(request))
        except UnsayableError as error:
            yield index, JobError(error.code, str(error), retry=False)
    done = 0
    total = sum(len(sentences) for sentences in texts.values())
    for index, sentences in texts.items():
        item = items[index]
        request = _request(item)
        parts = []
        spoken = model.engine.speak(sentences, _voice(request), request.rate, item.seed)
        for samples in spoken:
            parts.append(samples)
            done += 1
            context.step(done, total)
        joined = np.concatenate(parts)
        rate_hz = model.engine.sample_rate_hz
        data = sound.encode_sound(
            joined, rate_hz, request.format, job_id=item.job_id, seed=item.seed
        )
        facts = {
            **sound.facts_of(joined, rate_hz),
            "voice": request.voice,
            "rate": request.rate,
        }
        yield index, [Output(data, sound.MEDIA_TYPES[request.format], facts)]


def _request(item: Item) -> SpeechRequest:
    assert isinstance(item.request, SpeechRequest)
    return item.request


def _voice(request: SpeechRequest) -> str:
    assert request.voice is not None
    return request.voice
