"""The cards of what was trained."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import huggingface_hub
import pytest
import yaml

from storage.datasets import Dataset
from storage.models import ADAPTER, BUILT_IN, ModelCard
from workers.training import card

DATASET = Dataset(
    name="mugs",
    kind="pictures",
    licence="LicenseRef-acme-owned",
    consent="no person is shown",
    attribution="Acme",
    trigger="brandx-mug",
    count=12,
    digest="7" * 64,
    manifest_key="datasets/x.jsonl",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    removed_at=None,
)
HUB = ModelCard(
    name="sd15",
    family="diffusion",
    kind="image",
    source="hub:org/stable",
    revision="abc",
    licence="LicenseRef-CreativeML-OpenRAIL-M",
)


def readme(**changes: Any) -> str:
    """The card of an adapter."""
    given: dict[str, Any] = {
        "name": "acme/mug-lora",
        "family": "diffusion",
        "kind": ADAPTER,
        "licence": "MIT",
        "attribution": None,
        "commercial": True,
        "dataset": DATASET,
        "job_id": UUID(int=1),
        "steps": 400,
        "base": HUB,
        "parents": [HUB.identity],
        "numbers": {"validation_loss": 0.123456},
        "weights": "pytorch_lora_weights.safetensors",
        "kohya": "kohya.safetensors",
    }
    return card.readme(**{**given, **changes})


def front(text: str) -> dict[str, Any]:
    """What Hugging Face's own library reads from it."""
    return dict(huggingface_hub.ModelCard(text).data.to_dict())


def test_the_card_of_an_adapter() -> None:
    """Its front matter is what the hub reads, and its text says where it comes from."""
    text = readme()
    assert front(text) == {
        "license": "mit",
        "base_model": "org/stable",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "instance_prompt": "brandx-mug",
        "tags": ["text-to-image", "diffusers", "lora", "presswork"],
    }
    for part in (
        "`brandx-mug`",
        f"`{'7' * 64}`",
        "no person is shown",
        "Acme",
        "sd15@abc",
        "400",
        "0.1235",
        '"name": "acme/mug-lora"',
        "load_lora_weights(FOLDER, weight_name='pytorch_lora_weights.safetensors')",
        "`kohya.safetensors`",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("licence", "known"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        (
            "MIT AND LicenseRef-acme-owned",
            {"license": "other", "license_name": "MIT AND LicenseRef-acme-owned"},
        ),
    ],
)
def test_licences_are_called_as_on_the_hub(licence: str, known: dict[str, str]) -> None:
    """What the hub has no word for is another one, with its expression."""
    found = front(readme(licence=licence, attribution="Made by Acme\nand others"))
    assert {key: found[key] for key in found if key.startswith("license")} == known


def test_what_users_wrote_stays_words() -> None:
    """Neither YAML, nor Markdown, nor HTML comes from names, terms and attributions."""
    evil = "x\n---\nlicense: mit\n# Free\n<script>`|[a](b)"
    dataset = replace(DATASET, consent=evil, attribution=evil, licence=evil, trigger="no: yes #1")
    text = readme(
        dataset=dataset,
        attribution=evil,
        licence=evil,
        name=evil,
        numbers={evil: 1.0},
        parents=[evil],
    )
    _, matter, body = text.split("---\n", 2)
    read = yaml.safe_load(matter)
    assert read == front(text)
    assert (read["license"], read["license_name"]) == ("other", " ".join(evil.split()))
    assert read["instance_prompt"] == "no: yes #1"
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert headings == [
        "# x \\-\\-\\- license: mit \\# Free \\<script\\>\\`\\|\\[a\\]\\(b\\)",
        "## Terms",
        "## Training",
        "## Evaluation",
        "## Use",
    ]
    lines = body[: body.index("## Use")].splitlines()
    assert not [line for line in lines if line.startswith(("---", "<", "["))]
    assert "<script>" not in "".join(lines)


@pytest.mark.parametrize(
    ("family", "kind", "code"),
    [
        ("diffusion", "image", "DiffusionPipeline.from_pretrained(FOLDER)"),
        ("vae", "vae", "AutoencoderKL.from_pretrained(FOLDER)"),
        ("gan", "gan", '"model": "acme/mug-lora"'),
    ],
)
def test_the_card_of_a_model(family: str, kind: str, code: str) -> None:
    """One from scratch has no base, and says how it is loaded."""
    text = readme(family=family, kind=kind, base=None, parents=[], weights=None, kohya=None)
    assert code in text
    assert "base_model" not in front(text)
    assert "LoRA" not in text


def test_the_card_of_a_voice() -> None:
    """An adapter of a language model is loaded with peft, and asked for with a text."""
    base = BUILT_IN["smollm2"]
    dataset = replace(DATASET, kind="text")
    text = readme(family="causal_lm", base=base, dataset=dataset, kohya=None)
    assert front(text)["library_name"] == "peft"
    assert "PeftModel.from_pretrained(model, FOLDER)" in text
    assert '"text": "brandx-mug"' in text
