"""What follows from a trained model's parents."""

from dataclasses import replace
from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from jobs.problems import BadInputError
from jobs.registry.keeping import note_of
from jobs.registry.lineage import licence_of, terms_of, trained_card
from storage.datasets import Dataset
from storage.licences import LICENCES
from storage.models import ADAPTER, BUILT_IN, Manifest, ModelCard, manifest_digest
from storage.tenants import Tenant

ACME = Tenant(UUID(int=1), "acme")
JOB = UUID(int=2)
BASE = replace(BUILT_IN["debug-diffusion"], pool="gpu", retired_at=datetime.now(UTC))
MUGS = Dataset(
    name="mugs",
    kind="pictures",
    licence="MIT",
    consent="No person is shown.",
    attribution=None,
    trigger=None,
    count=12,
    digest="d" * 64,
    manifest_key="",
    created_at=datetime.now(UTC),
    removed_at=None,
)


def refusals(
    *parents: ModelCard, dataset: Dataset = MUGS, commercial: bool | None = None
) -> list[str]:
    """Why a model cannot be made of these."""
    with pytest.raises(BadInputError) as caught:
        terms_of(parents, dataset, commercial=commercial)
    return [str(problem) for problem in caught.value.problems]


def test_licences() -> None:
    """All are kept at once, each said once, and a choice stays one."""
    assert licence_of(["MIT", "", "CC-BY-4.0 AND MIT", "0BSD"]) == "MIT AND CC-BY-4.0 AND 0BSD"
    choice = licence_of(["MIT OR 0BSD", "MIT", "(MIT OR 0BSD) AND CC-BY-4.0"])
    assert choice == "(MIT OR 0BSD) AND MIT AND CC-BY-4.0"
    assert licence_of([choice]) == choice


def test_the_note_of_several_licences() -> None:
    """What each of them has to say is said, once."""
    rail = "LicenseRef-CreativeML-OpenRAIL-M"
    card = replace(BASE, licence=f"{rail} AND GPL-3.0-only AND LicenseRef-ours AND {rail}")
    assert note_of(card) == f"{LICENCES[rail].note}; {LICENCES['GPL-3.0-only'].note}"


def test_terms() -> None:
    """Commercial if all allow it, with what each wants said, until the first of them ends."""
    early = replace(BASE, attribution="Ada\nBob", licence_until=date(2030, 1, 2))
    late = replace(BASE, attribution="Bob", licence_until=date(2031, 1, 2))
    dataset = replace(MUGS, licence="LicenseRef-llama3.1", attribution="Mugs by Cy")
    terms = terms_of([late, early, BASE], dataset)
    assert terms.licence == "Apache-2.0 AND LicenseRef-llama3.1"
    assert terms.commercial
    assert terms.attribution == "Bob\nAda\nMugs by Cy\nBuilt with Llama"
    assert terms.licence_until == date(2030, 1, 2)
    assert not terms_of([BASE, replace(BASE, commercial=False)], MUGS).commercial
    assert not terms_of([BASE], replace(MUGS, licence="CC-BY-NC-4.0")).commercial
    alone = terms_of([], MUGS)
    assert (alone.licence, alone.attribution, alone.licence_until) == ("MIT", None, None)


def test_terms_of_ones_own() -> None:
    """Where a dataset's terms leave commercial use open, it must be said, and counts."""
    own = replace(MUGS, licence="LicenseRef-acme")
    (refusal,) = refusals(BASE, dataset=own)
    assert refusal == (
        "commercial: the licence of dataset 'mugs' (LicenseRef-acme) leaves open whether what is "
        "made with it may be used commercially: say yes or no"
    )
    depends = replace(MUGS, licence="MIT AND LicenseRef-stability-ai-community")
    assert "(LicenseRef-stability-ai-community) leaves open" in refusals(dataset=depends)[0]
    assert terms_of([BASE], own, commercial=True).commercial
    assert not terms_of([BASE], own, commercial=False).commercial
    assert not terms_of([replace(BASE, commercial=False)], own, commercial=True).commercial


def test_no_derivatives() -> None:
    """What must not be passed on once adapted is neither trained on nor trained further."""
    card = replace(BASE, name="still", licence="MIT AND CC-BY-NC-ND-4.0")
    still = replace(MUGS, licence="CC-BY-ND-4.0")
    model, dataset = refusals(BASE, card, dataset=still, commercial=True)
    assert model.startswith("model: the licence of 'still' (CC-BY-NC-ND-4.0) forbids to pass on")
    assert dataset.startswith("dataset: the licence of dataset 'mugs' (CC-BY-ND-4.0) forbids to")


def test_cards() -> None:
    """An adapter is like its base, a model is one of its own, and both say what made them."""
    manifest: Manifest = {"lora.safetensors": {"sha256": "0" * 64, "size": 7}}
    made_by = {
        "job": str(JOB),
        "dataset": {"name": "mugs", "digest": "d" * 64},
        "parents": [BASE.identity],
    }

    def card(base: ModelCard | None, kind: str, *parents: ModelCard) -> ModelCard:
        return trained_card(
            "glow",
            ACME,
            base,
            MUGS,
            family="diffusion",
            kind=kind,
            manifest=manifest,
            details={"rank": 4},
            job_id=JOB,
            parents=parents,
        )

    adapter = card(BASE, ADAPTER)
    assert (adapter.name, adapter.tenant_id, adapter.source) == ("acme/glow", ACME.id, f"job:{JOB}")
    assert (adapter.kind, adapter.base, adapter.pool) == (ADAPTER, BASE.name, "gpu")
    assert (adapter.max_side_px, adapter.retired_at) == (BASE.max_side_px, None)
    assert adapter.details == {"rank": 4, "made_by": made_by}
    assert adapter.manifest_sha256 == manifest_digest(adapter.manifest or {})
    assert adapter.identity == f"acme/glow@{adapter.manifest_sha256[:16]}"
    assert (adapter.licence, adapter.commercial) == ("Apache-2.0 AND MIT", True)
    model = card(None, "image", BASE)
    assert (model.kind, model.base, model.pool) == ("image", None, "default")
    assert model.details["made_by"] == made_by
    others = replace(BASE, tenant_id=UUID(int=3))
    with pytest.raises(AssertionError, match="another's model"):
        card(others, ADAPTER)
