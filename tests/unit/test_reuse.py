"""What makes two jobs identical, and how much a worker claims where most of it need not be made."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, create_engine

from jobs.kinds import KINDS
from jobs.kinds.image import IMAGE, ImageRequest, resolve
from storage.ledger.claim import Batch, CampaignPart, ClaimedJob
from storage.ledger.finish import Failed, Released, Reused, Succeeded
from storage.models import BUILT_IN
from workers.family import Input, Item
from workers.reuse import LARGER_CLAIM, Plan, Reuse, digest_of

CARD = BUILT_IN["debug-diffusion"]
FILE = Input(b"1", "image/png", "1" * 64)


def item(**fields: Any) -> Item:
    """A job for a picture."""
    request = ImageRequest(**{"prompt": "a mug", "seed": 1, **fields})
    return Item(uuid4(), resolve(request, CARD), {"image": [FILE]} if request.image else {})


def digest(one: Item) -> str:
    """What it asks for of the plain model."""
    return digest_of("image", one, [CARD])


def test_what_decides_the_output() -> None:
    """Every field of a request but for the permission to reuse, the files, and what makes it."""
    start = {"image": "sample:mug.png", "mask": "sample:mask.png", "control": "sample:edges.png"}
    plain = item(**start)
    assert digest(plain) == digest(item(**start)) == digest(item(**start, reuse=False))
    other: dict[str, Any] = {
        "prompt": "a cup",
        "negative_prompt": "red",
        "strength": 0.5,
        "controlnet_scale": 0.5,
        "size": "64x64",
        "steps": 3,
        "scheduler": CARD.details["schedulers"][0],
        "guidance": 2.0,
        "max_sequence_length": 16,
        "adapters": [{"name": "a"}],
        "num_images": 2,
        "seed": 2,
        "format": "webp",
        "quality": "high",
    }
    assert other.keys() | start.keys() | {"model", "reuse"} >= IMAGE.Request.model_fields.keys()
    changed = [
        replace(plain, request=ImageRequest.model_validate({**vars(plain.request), name: value}))
        for name, value in other.items()
    ]
    digests = {digest(plain), *map(digest, changed)}
    digests.add(digest_of("image", plain, [replace(CARD, revision="2")]))
    digests.add(digest_of("image", plain, [CARD, replace(CARD, name="adapter")]))
    assert len(digests) == 3 + len(other)


def test_files_count_by_their_bytes() -> None:
    """Not by what they are called; but by what their licence demands of the output."""
    one = item(image="sample:mug.png")
    same = replace(item(image="sample:apple.png"), inputs=one.inputs)
    assert digest(one) == digest(same)
    for changed in (
        replace(FILE, sha256="2" * 64),
        replace(FILE, licence="MIT"),
        replace(FILE, attribution=["Ada"]),
    ):
        assert digest(replace(one, inputs={"image": [changed]})) != digest(one)
    assert digest(replace(one, inputs={"image": [FILE, FILE]})) != digest(one)


@pytest.mark.parametrize("name", KINDS)
def test_the_permission_is_asked_of_every_kind(name: str) -> None:
    """It is given unless somebody takes it back, and then it says so in what is stored."""
    kind = KINDS[name]
    request = kind.Request.model_validate(kind.example)
    assert request.reuse
    assert "reuse" not in request.model_dump(mode="json")
    forbidden = kind.Request.model_validate({**kind.example, "reuse": False})
    assert forbidden.model_dump(mode="json")["reuse"] is False
    card = BUILT_IN[kind.default_model]
    keys = [kind.batch_key(kind.resolve(each, card), card) for each in (request, forbidden)]
    assert keys[0] == keys[1]


@pytest.fixture
def nowhere() -> Engine:
    """A database that is away."""
    return create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")


def batch_of(*items: Item, seed: object) -> Batch:
    """The batch of a campaign whose creative has that seed."""
    part = CampaignPart(uuid4(), "hero", {"seed": seed}, "1", {})
    tenant_id = uuid4()
    jobs = [ClaimedJob(each.job_id, tenant_id, "image", 1, None, part) for each in items]
    return Batch(uuid4(), "a", 60, tuple(jobs))


@pytest.mark.parametrize("seed", ["per-recipient", "random", 7])
def test_without_the_database(nowhere: Engine, seed: object) -> None:
    """Everything is made. Of derived seeds nobody asks it at all."""
    items = [item(), item()]
    reuse = Reuse(nowhere)
    plan = reuse.plan(batch_of(*items, seed=seed), items)
    assert (plan.items, plan.outcomes, plan.followers) == (items, [], {})
    assert reuse.claim_size(16, "a") == 16


def test_mates_share_a_fate() -> None:
    """Whatever becomes of the one that is made."""
    maker, mate, other = (UUID(int=n) for n in range(3))
    plan = Plan([], followers={maker: [mate]})
    assert list(plan.follow(Succeeded(maker, []))) == [Reused(mate, maker)]
    assert list(plan.follow(Failed(maker, "a", "b", retry=True))) == [
        Failed(mate, "a", "b", retry=True)
    ]
    assert list(plan.follow(Released(maker, "a", "b"))) == [Released(mate, "a", "b")]
    assert not list(plan.follow(Succeeded(other, [])))


def test_claims_grow_where_little_is_to_be_made() -> None:
    """Bounded; they are as usual for another key, and again once there is something to make."""
    reuse = Reuse(create_engine("postgresql+psycopg://"))
    sizes = []
    for made in (0, 0, 0, 0, 0, 16, 16, 16):
        note = reuse._note_share  # noqa: SLF001 (what the plans of a database would have it note)
        note("a", Plan([item()] * made, [Reused(uuid4(), uuid4())] * (16 - made)), 16)
        sizes.append(reuse.claim_size(16, "a"))
    assert sizes[:5] == [32, 64, 128, 128, 128] == [*sizes[:2], *[16 * LARGER_CLAIM] * 3]
    assert sizes[5:] == sorted(sizes[5:], reverse=True)
    assert sizes[-1] < 20
    assert reuse.claim_size(16, "b") == reuse.claim_size(16, None) == 16
