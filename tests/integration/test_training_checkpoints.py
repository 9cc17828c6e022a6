"""Checkpoints in a real bucket: whole or not there at all, whatever happens to it."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
import torch

from jobs.settings import Settings
from storage.objects import ObjectStore, ObjectStoreError, training_prefix
from tests.s3_proxy import S3Proxy
from tests.training_parts import Heard, Stop, Sums, assert_same, loop_of
from tests.training_parts import sums_request as request
from workers.family import StopRequestedError
from workers.training import loop
from workers.training.checkpoints import MANIFEST, Checkpoint, Checkpoints


@pytest.fixture
def proxy(settings: Settings) -> Iterator[S3Proxy]:
    """The way to the store."""
    endpoint = settings.objects().endpoint
    assert endpoint
    with S3Proxy(endpoint) as running:
        yield running


@pytest.fixture
def objects(settings: Settings, proxy: S3Proxy) -> ObjectStore:
    """The store by that way, tried once."""
    return replace(settings.objects(), endpoint=proxy.endpoint, tries=1)


def checkpoint(step: int) -> Checkpoint:
    """One with tensors of several sorts."""
    tensors = {
        "weights.a": torch.randn(3, 4, generator=torch.Generator().manual_seed(step)),
        "buffers.count": torch.tensor(step),
        "ema.0": torch.full((2,), step, dtype=torch.bfloat16),
    }
    state = {"training": {"rate": 0.1 + 0.2}, "best": {}}
    return Checkpoint(step, {"one": tensors, "other": {"weights.b": torch.zeros(1)}}, state)


def test_what_is_read_is_what_was_written(objects: ObjectStore) -> None:
    """Tensors and state come back bit by bit under another claim; only the last two are kept."""
    job_id, claim_ids = uuid4(), [uuid4(), uuid4(), uuid4()]
    assert Checkpoints(objects, job_id, claim_ids[0]).latest() is None
    for step, claim_id in zip((5, 90, 1000), claim_ids, strict=True):
        Checkpoints(objects, job_id, claim_id).save(checkpoint(step))
    found = Checkpoints(objects, job_id, uuid4()).latest()
    wanted = checkpoint(1000)
    assert found
    assert found.step == 1000
    assert {key: found.state[key] for key in wanted.state} == wanted.state
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, tensors in wanted.tensors.items():
        assert tensors.keys() == found.tensors[name].keys()
        for key, tensor in tensors.items():
            assert found.tensors[name][key].dtype == tensor.dtype
            assert torch.equal(found.tensors[name][key], tensor)
    own = list(objects.keys(training_prefix(job_id)))
    assert {key.split("/")[3].split("-")[0] for key in own} == {"000000090", "000001000"}
    assert len(own) == 2 * 4


@pytest.mark.parametrize("damage", ["no manifest", "cut manifest", "a byte", "a file"])
def test_a_damaged_one_is_passed_over(
    objects: ObjectStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an upload that did not end, or that is damaged, nothing is used: the one before is."""
    job_id = uuid4()
    kept = Checkpoints(objects, job_id, uuid4())
    kept.save(checkpoint(1))
    kept.save(checkpoint(2))
    ending = MANIFEST if "manifest" in damage else "one.safetensors"
    (last,) = [
        key
        for key in objects.keys(f"{training_prefix(job_id)}checkpoints/000000002-")
        if key.endswith(ending)
    ]
    body = objects.get(last)
    if damage in ("no manifest", "a file"):
        objects.delete([last])
    elif damage == "cut manifest":
        objects.put(last, body[:-10], "application/json")
    else:
        objects.put(last, body[:-1] + bytes([body[-1] ^ 1]), "application/octet-stream")
    found = kept.latest()
    assert found
    assert found.step == 1
    assert ("cannot be read" in caplog.text) == (damage != "no manifest")
    # What was left of it goes with the next ones.
    kept.save(checkpoint(3))
    kept.save(checkpoint(4))
    left = {key.split("/")[3][:9] for key in objects.keys(training_prefix(job_id))}
    assert left == {"000000003", "000000004"}


def test_the_bucket_is_away_for_a_while(
    objects: ObjectStore, proxy: S3Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The training goes on without a checkpoint, does not make way, and says it once."""
    kept = Checkpoints(objects, uuid4(), uuid4())
    plan = request(checkpoint_every=1)
    training, heard = Sums(plan), Heard()
    proxy.refuse_puts(4)
    with caplog.at_level(logging.INFO, "workers.training.loop"):
        assert not loop_of(training, plan, kept, give_way=lambda: True, saying=heard).run()
    assert len(training.seen) == 5
    assert [note["step"] for note in heard.of("checkpoint")] == [5]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    whole = Sums(plan)
    loop_of(whole, plan).run()
    rest = Sums(plan)
    assert loop_of(rest, plan, kept).run()
    assert_same(whole, rest)


def test_the_last_one_must_be_kept(
    objects: ObjectStore, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, until patience is at its end or the worker has to stop."""
    kept = Checkpoints(objects, uuid4(), uuid4())
    plan = request(checkpoint_every=9)
    proxy.refuse_puts(1)
    heard = Heard()
    assert loop_of(Sums(plan), plan, kept, saying=heard).run()
    assert [note["step"] for note in heard.of("checkpoint")] == [9]
    other = Checkpoints(objects, uuid4(), uuid4())
    proxy.refuse_puts(100)
    with pytest.raises(StopRequestedError):
        loop_of(Sums(plan), plan, other, look=Stop(9)).run()
    monkeypatch.setattr(loop, "PATIENCE_S", 0)
    with pytest.raises(ObjectStoreError):
        loop_of(Sums(plan), plan, other).run()
