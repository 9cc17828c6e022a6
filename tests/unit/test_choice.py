"""Which models and adapters a job may use, and what it is told otherwise."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from jobs.campaigns import file as campaign_file
from jobs.campaigns.creatives import compile_campaign
from jobs.kinds.image import IMAGE
from jobs.kinds.values import AdapterUse
from jobs.problems import BadInputError
from jobs.registry.choice import Use, adapters_of, choose
from storage.models import ADAPTER, BUILT_IN, ModelCard

DEBUG = BUILT_IN["debug-diffusion"]
MUGS = replace(DEBUG, name="mugs", source="dir:/mugs", manifest_sha256="0" * 64)
TODAY = datetime.now(UTC).date()


def cards(*changed: ModelCard) -> dict[str, ModelCard]:
    """Some models and adapters, and those that a test has changed in their place."""
    known = [
        MUGS,
        replace(MUGS, name="cups", licence="CC-BY-NC-4.0", commercial=False),
        replace(MUGS, name="glow", kind=ADAPTER, base="mugs"),
        replace(MUGS, name="pencil", kind=ADAPTER, base="cups"),
    ]
    return {card.name: card for card in (*known, *changed)}


def said(
    model: str, *adapters: str, use: Use = "commercial", known: dict[str, ModelCard] | None = None
) -> list[str]:
    """What a request is told."""
    uses = [AdapterUse(name=name) for name in adapters]
    with pytest.raises(BadInputError) as caught:
        choose(known or cards(), model, uses, use)
    return [str(problem) for problem in caught.value.problems]


def test_good_choices() -> None:
    """A model with its own adapters is used, and for internal use one that forbids to sell."""
    assert choose(cards(), "mugs", [AdapterUse(name="glow", weight=0.5)], "commercial") == MUGS
    assert choose(cards(), "cups", [AdapterUse(name="pencil")], "internal").name == "cups"
    last_day = replace(MUGS, licence_until=TODAY + timedelta(days=1))
    assert choose(cards(last_day), "mugs", [], "commercial") == last_day


def test_names() -> None:
    """A name that is unknown, or is something else, is told with what there is."""
    assert said("mug") == ["model: unknown model 'mug'; did you mean 'mugs'?"]
    assert said("glow") == ["model: 'glow' is an adapter for 'mugs', not a model"]
    assert said("mugs", "glow", "glo") == [
        "adapters[1].name: unknown adapter 'glo'; did you mean 'glow'?"
    ]
    assert said("mugs", "cups", "pencil") == [
        "adapters[0].name: 'cups' is a model, not an adapter",
        "adapters[1].name: adapter 'pencil' is for model 'cups', not 'mugs'",
    ]


def test_what_a_licence_forbids() -> None:
    """Neither a model nor an adapter is used against its licence, nor after its end."""
    (problem,) = said("cups")
    assert problem == (
        "model: the licence of 'cups' (CC-BY-NC-4.0) forbids commercial use: choose another, or "
        "say `use: internal` if nobody earns by it"
    )
    glow = replace(cards()["glow"], commercial=False, licence_until=date(2020, 2, 29))
    first, second = said("mugs", "glow", known=cards(glow))
    assert first.startswith("adapters[0].name: the licence of 'glow' (Apache-2.0) forbids comm")
    assert second == "adapters[0].name: the licence of 'glow' ended on 2020-02-29"


def test_what_is_gone() -> None:
    """A retired model says since when; one from before there were digests, what to do."""
    retired = replace(MUGS, retired_at=datetime(2026, 3, 1, 12, tzinfo=UTC))
    assert said("mugs", known=cards(retired)) == [
        "model: 'mugs' was retired on 2026-03-01; choose another"
    ]
    old = replace(MUGS, manifest_sha256=None)
    assert said("mugs", known=cards(old)) == [
        "model: 'mugs' was registered before files were checked: add it again, by another name"
    ]


def test_campaigns_choose_alike() -> None:
    """A campaign's creatives are held to the same, and told where the model is named."""
    given = {
        "name": "Spring",
        "model": "cups",
        "recipients": {"id": "id", "rows": [{"id": "1"}]},
        "creatives": [
            {"name": "a", "prompt": "x"},
            {"name": "b", "prompt": "x"},
            {"name": "c", "prompt": "x", "model": "glow"},
        ],
    }
    with pytest.raises(BadInputError) as caught:
        compile_campaign(campaign_file.from_mapping(given), cards())
    assert [problem.field for problem in caught.value.problems] == ["model", "creatives[2].model"]
    del given["creatives"][2]  # type: ignore[attr-defined]
    internal = campaign_file.from_mapping({**given, "use": "internal"})
    assert len(compile_campaign(internal, cards())) == 2


def test_adapters_that_share_batches() -> None:
    """One bankable adapter leaves its name and weight out of the batch key; others do not."""
    bank = {"bank": True}
    known = cards(
        *(replace(cards()["glow"], name=name, details=bank) for name in ("matte", "noir")),
        replace(cards()["glow"], details={"bank": False}),
    )

    def key(*uses: AdapterUse) -> str:
        creative = {"name": "a", "prompt": "x", "adapters": [use.model_dump() for use in uses]}
        given = {
            "name": "Spring",
            "model": "mugs",
            "recipients": {"id": "id", "rows": [{"id": "1"}]},
            "creatives": [creative],
        }
        (compiled,) = compile_campaign(campaign_file.from_mapping(given), known)
        request = IMAGE.Request.model_validate(
            {"prompt": "y", "model": "mugs", "adapters": creative["adapters"]}
        )
        resolved = IMAGE.resolve(request, MUGS)
        assert IMAGE.batch_key(resolved, MUGS, adapters_of(known, uses)) == compiled.batch_key
        return compiled.batch_key

    matte, noir, glow = (AdapterUse(name=name) for name in ("matte", "noir", "glow"))
    banked = key(matte)
    assert key(noir) == key(AdapterUse(name="matte", weight=0.5)) == banked
    others = [key(), key(glow), key(AdapterUse(name="glow", weight=0.5)), key(matte, noir)]
    assert len({banked, *others}) == len(others) + 1
