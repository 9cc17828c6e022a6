"""The README.md of what was trained: a model card as Hugging Face's tools read it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from uuid import UUID

from huggingface_hub import ModelCardData

from storage.datasets import Dataset
from storage.models import ADAPTER, ModelCard

FILE = "README.md"

_LICENCES: Mapping[str, str] = MappingProxyType(
    {
        "AGPL-3.0-only": "agpl-3.0",
        "Apache-2.0": "apache-2.0",
        "BSD-2-Clause": "bsd-2-clause",
        "BSD-3-Clause": "bsd-3-clause",
        "CC-BY-4.0": "cc-by-4.0",
        "CC-BY-NC-4.0": "cc-by-nc-4.0",
        "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
        "CC-BY-SA-4.0": "cc-by-sa-4.0",
        "CC0-1.0": "cc0-1.0",
        "GPL-3.0-only": "gpl-3.0",
        "LicenseRef-CreativeML-OpenRAIL-M": "creativeml-openrail-m",
        "MIT": "mit",
    }
)
"""Hugging Face's own identifiers, https://huggingface.co/docs/hub/repositories-licenses."""

_TAGS: Mapping[tuple[str, str], Sequence[str]] = MappingProxyType(
    {
        ("diffusion", "image"): ("text-to-image", "diffusers"),
        ("diffusion", ADAPTER): ("text-to-image", "diffusers", "lora"),
        ("causal_lm", ADAPTER): ("text-generation", "peft", "lora"),
        ("gan", "gan"): ("unconditional-image-generation",),
        ("vae", "vae"): ("diffusers",),
    }
)
"""By family and kind; the first names the task, if it is one, and the second the library."""
_TASKS = frozenset({"text-to-image", "text-generation", "unconditional-image-generation"})
_LIBRARIES = frozenset({"diffusers", "peft"})

_ASKED_BY: Mapping[str, str] = MappingProxyType({"image": "prompt", "text": "text"})
"""The field of a request that holds a prompt, by the kind of job."""

_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+!|&~$-])")


def readme(
    *,
    name: str,
    family: str,
    kind: str,
    licence: str,
    attribution: str | None,
    commercial: bool,
    dataset: Dataset,
    job_id: UUID,
    steps: int,
    base: ModelCard | None = None,
    parents: Sequence[str] = (),
    numbers: Mapping[str, float] = MappingProxyType({}),
    weights: str | None = None,
    kohya: str | None = None,
) -> str:
    """The card of a model of that family and kind (`ADAPTER` for one on top of ``base``).

    ``licence`` is an SPDX expression, ``parents`` are the identities of all models that its weights
    come from, and ``numbers`` are those of the last evaluation. ``weights`` is the file of an
    adapter as diffusers names it, ``kohya`` the job's output in the form of kohya's trainers. Of
    what was learnt from nothing goes in but the trigger.
    """
    tags = _TAGS.get((family, kind), ())
    known = _LICENCES.get(licence)
    data = ModelCardData(
        license=known or "other",
        license_name=None if known else " ".join(licence.split()),
        base_model=_on_the_hub(base) if base else None,
        base_model_relation="adapter" if base else None,
        library_name=next((tag for tag in tags if tag in _LIBRARIES), None),
        pipeline_tag=next((tag for tag in tags if tag in _TASKS), None),
        instance_prompt=dataset.trigger if base else None,
        tags=[*tags, "presswork"],
    )
    sections = [
        f"# {_text(name)}",
        "\n".join(_lead(kind, base, dataset)),
        "## Terms\n\n" + "\n".join(_terms(licence, attribution, commercial=commercial)),
        "## Training\n\n" + "\n".join(_training(dataset, job_id, steps, parents)),
    ]
    if numbers:
        sections.append("## Evaluation\n\n" + "\n".join(_table(numbers)))
    uses = [_job(name, kind, base, dataset)]
    if code := _python(family, base, dataset, weights):
        uses.append(f"In Python, where FOLDER holds the files:\n\n{_code('python', code)}")
    if kohya:
        uses.append(
            f"In ComfyUI: copy `{kohya}`, an output of the job, to `models/loras`, and choose it "
            "in the node Load LoRA."
        )
    sections.append("## Use\n\n" + "\n\n".join(uses))
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def _lead(kind: str, base: ModelCard | None, dataset: Dataset) -> Iterator[str]:
    if base:
        yield f"A LoRA for {_text(base.identity)}, trained with Presswork."
        if dataset.trigger:
            yield f"It is called up by the word `{dataset.trigger}` in a prompt."
    else:
        yield f"A model for {_text(kind)} jobs, trained from scratch with Presswork."


def _terms(licence: str, attribution: str | None, *, commercial: bool) -> Iterator[str]:
    yield f"- Licence: {_text(licence)}, as it follows from the parents and the dataset"
    yield f"- Commercial use: {'allowed' if commercial else 'not allowed'}"
    for line in (attribution or "").splitlines():
        yield f"- To be named: {_text(line)}"


def _training(dataset: Dataset, job_id: UUID, steps: int, parents: Sequence[str]) -> Iterator[str]:
    what = "pictures" if dataset.kind == "pictures" else "texts"
    yield f"- Dataset: {_text(dataset.name)}, {dataset.count} {what}, sha256 `{dataset.digest}`"
    yield f"- Its licence: {_text(dataset.licence)}"
    yield f"- Consent: {_text(dataset.consent)}"
    if dataset.attribution:
        yield f"- Its attribution: {_text(dataset.attribution)}"
    if parents:
        yield f"- Parents: {_text(', '.join(parents))}"
    yield f"- Steps: {steps}"
    yield f"- Job: `{job_id}`"


def _table(numbers: Mapping[str, float]) -> Iterator[str]:
    yield "| of the last evaluation | |"
    yield "|---|---|"
    for name, value in numbers.items():
        yield f"| {_text(name)} | {value:.4g} |"


def _job(name: str, kind: str, base: ModelCard | None, dataset: Dataset) -> str:
    if base:
        makes, request = base.kind, {"model": base.name, "adapters": [{"name": name}]}
    else:
        makes, request = kind, {"model": name}
    if makes in _ASKED_BY:
        request[_ASKED_BY[makes]] = _prompt(dataset)
    body = json.dumps({"kind": makes, "request": request}, indent=2)
    return f"In Presswork, as the body of `POST /v1/jobs`:\n\n{_code('json', body)}"


def _python(
    family: str, base: ModelCard | None, dataset: Dataset, weights: str | None
) -> str | None:
    """How others load it; None: nobody else does."""
    make = f"pipeline({_prompt(dataset)!r}).images[0]"
    if family == "diffusion" and base:
        file = f", weight_name={weights!r}" if weights else ""
        return (
            "from diffusers import DiffusionPipeline\n\n"
            f"pipeline = DiffusionPipeline.from_pretrained({_on_the_hub(base)!r})\n"
            f"pipeline.load_lora_weights(FOLDER{file})\n{make}"
        )
    if family == "diffusion":
        return (
            "from diffusers import DiffusionPipeline\n\n"
            f"pipeline = DiffusionPipeline.from_pretrained(FOLDER)\n{make}"
        )
    if family == "causal_lm" and base:
        return (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({_on_the_hub(base)!r})\n"
            "model = PeftModel.from_pretrained(model, FOLDER)"
        )
    if family == "vae":
        return "from diffusers import AutoencoderKL\n\nvae = AutoencoderKL.from_pretrained(FOLDER)"
    return None


def _prompt(dataset: Dataset) -> str:
    if not dataset.trigger:
        return "..."
    return f"a photo of {dataset.trigger}" if dataset.kind == "pictures" else dataset.trigger


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _on_the_hub(base: ModelCard) -> str:
    """As others know the model, where it comes from the hub; else as it is called here."""
    return base.source.removeprefix("hub:") if base.source.startswith("hub:") else base.name


def _text(words: str) -> str:
    """What somebody wrote, on one line, and nothing but words to Markdown and HTML."""
    return _MARKS.sub(r"\\\1", " ".join(words.split()))
