"""LoRAs for language models: learnt on the debug model, exported, and used by text jobs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.trainings.requests import FinetuneRequest
from storage.models import ADAPTER, BUILT_IN
from tests.contracts.test_causal_lm import failed, item, made
from workers.families.causal_lm import CausalLM, footing
from workers.families.causal_lm.adapters import KEPT
from workers.families.causal_lm.conversations import messages_of, tokens_of
from workers.families.causal_lm.finetune import WEIGHTS, VoiceTuning
from workers.families.causal_lm.load import Loaded
from workers.family import Adapter, Device
from workers.files import files_of
from workers.training import draws, preflight
from workers.training.checkpoints import Checkpoint
from workers.training.data import Data
from workers.training.loop import Loop
from workers.training.trainer import Ground, Sample, TrainingError

CARD = BUILT_IN["debug-lm"]
FAMILY = CausalLM()
THINGS = ("mug", "cap", "tea towel", "notebook", "umbrella", "pencil", "lamp", "bag", "sock", "map")
TEXTS = [{"prompt": f"Sell a {one}.", "completion": f"Ahoy! A {one}!"} for one in THINGS]
DATA = Data("d" * 64, None, texts=TEXTS)


def request(**changes: Any) -> FinetuneRequest:
    """A short training, complete."""
    given = {
        "name": "voice",
        "model": CARD.name,
        "dataset": "voice",
        "steps": 6,
        "batch": 4,
        "learning_rate": 3e-3,
        "warmup_steps": 0,
        "rank": 4,
        "alpha": 4,
        "max_tokens": 256,
        "precision": "float32",
        "seed": 3,
    }
    return FinetuneRequest.model_validate(given | changes)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug model's files."""
    return files_of(CARD, tmp_path_factory.getbasetemp() / "cache")


def tuning(base: Path, data: Data = DATA, **changes: Any) -> VoiceTuning:
    """A training at its beginning."""
    return VoiceTuning(Ground(request(**changes), data, Device("cpu"), 3, card=CARD, base=base))


def trained(base: Path, **changes: Any) -> VoiceTuning:
    """A training at its end."""
    training = tuning(base, **changes)
    for step in range(training.steps):
        draws.begin(3, step)
        training.step(step)
    return training


@dataclass
class Notes:
    """Keeps checkpoints, and what it is told."""

    checkpoints: list[Checkpoint] = field(default_factory=list)
    noted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it."""
        self.checkpoints.append(checkpoint)

    def latest(self) -> Checkpoint | None:
        """The last one."""
        return self.checkpoints[-1] if self.checkpoints else None

    def note(self, name: str, data: dict[str, Any]) -> None:
        """Keep what has happened."""
        self.noted.append((name, data))

    def show(self, _step: int, sample: Sample) -> None:
        """Keep what it makes."""
        self.samples.append(sample)


def looped(base: Path, notes: Notes, *, stop_at: int = 0, **changes: Any) -> dict[str, Any]:
    """What a training has learnt, that was paused once after ``stop_at`` steps."""
    for stop in [stop_at, 0] if stop_at else [0]:
        training = tuning(base, **changes)

        def is_paused(stop: int = stop) -> bool:
            return bool(notes.checkpoints) and notes.checkpoints[-1].step == stop

        loop = Loop(
            training,
            request(**changes),
            3,
            notes,
            notes,
            look=lambda: None,
            give_way=lambda: False,
            pause=is_paused,
        )
        assert loop.run() == (not stop)
    return training.learners["adapter"].tensors()


def test_loss_falls(base: Path) -> None:
    """It learns what the assistant says, and tells how well by the held-out texts."""
    training = tuning(base, steps=30, learning_rate=2e-2, held_out=0.2)
    before = training.evaluate(0)
    draws.begin(3, 0)
    losses = [training.step(step)["loss"] for step in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert training.evaluate(30)["perplexity"] < 0.7 * before["perplexity"]


def test_perplexity_is_of_the_assistants_tokens(base: Path) -> None:
    """By hand, on the model itself, since an adapter that has learnt nothing changes nothing."""
    training = tuning(base, held_out=0.5, batch=2)
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    _, held_out = DATA.divided(0.5, 3)
    losses = []
    for number in held_out:
        text = tokens_of(tokenizer, messages_of(TEXTS[number]), takes_system=True)
        with torch.no_grad():
            scores = model(torch.tensor([text.ids])).logits[0].log_softmax(-1)
        said = f"{TEXTS[number]['completion']}".encode()
        first = len(text.ids) - len(said) - 1
        losses += [-float(scores[n - 1, text.ids[n]]) for n in range(first, len(text.ids))]
    expected = sum(losses) / len(losses)
    found = training.evaluate(0)
    assert found["held_out_loss"] == pytest.approx(expected, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)


def test_accumulated_passes_are_one_large_one(base: Path) -> None:
    """Each token counts the same, in whichever pass it is; and so they do with checkpointing."""
    one, two, three = (
        trained(base, steps=1, **changes)
        for changes in (
            {"batch": 10},
            {"batch": 5, "accumulate": 2},
            {"batch": 10, "gradient_checkpointing": True},
        )
    )
    for other in (two, three):
        others = other.learners["adapter"].parameters
        for name, weight in one.learners["adapter"].parameters.items():
            assert torch.allclose(weight, others[name], atol=1e-5)


def test_resumed_is_uninterrupted(base: Path) -> None:
    """Bit by bit, over the end of an epoch, with averaged weights and texts in another order."""
    options: dict[str, Any] = {"ema": 0.9, "steps": 6, "checkpoint_every": 2}
    whole = looped(base, Notes(), **options)
    again = looped(base, Notes(), stop_at=4, **options)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert any(name.startswith("ema.") for name in whole)


def test_what_is_told(base: Path) -> None:
    """Samples, evaluations, and an end where these grow no better."""
    notes = Notes()
    options: dict[str, Any] = {
        "sample_every": 2,
        "sample_prompts": ("Sell a hat.",),
        "held_out": 0.2,
    }
    looped(base, notes, evaluate_every=1, patience=1, learning_rate=2, steps=20, **options)
    perplexities = [data["perplexity"] for name, data in notes.noted if name == "evaluated"]
    assert perplexities[-1] > min(perplexities)
    assert ("ended", {"step": len(perplexities), "why": "no improvement"}) in notes.noted
    shown = Notes()
    looped(base, shown, steps=2, **options)
    assert [(one.caption, type(one.content)) for one in shown.samples] == [("Sell a hat.", str)]


@pytest.fixture(scope="module")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VoiceTuning, Path]:
    """A training at its end, and what it has made."""
    training = trained(base, learning_rate=0.1)
    folder = tmp_path_factory.mktemp("voice")
    found = training.export(folder)
    assert (found.kind, found.family) == (ADAPTER, "causal_lm")
    assert (found.details["rank"], found.details["bank"]) == (4, False)
    assert {*found.details["targets"]} >= {"self_attn.q_proj", "mlp.down_proj"}
    return training, folder


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_loads_what_is_exported(
    base: Path, exported: tuple[VoiceTuning, Path], tmp_path: Path
) -> None:
    """Anybody's PEFT gives the scores that it had; again it is the same file, byte for byte."""
    training, folder = exported
    module = training.learners["adapter"].module.eval()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        before = plain(ids).logits
        theirs = peft.PeftModel.from_pretrained(plain, folder).eval()(ids).logits
        ours = module(ids).logits
    assert torch.equal(theirs, ours)
    assert not torch.allclose(before, ours, atol=1e-2)
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert file.metadata()["base_model"] == CARD.identity
    training.export(tmp_path)
    for name in {path.name for path in folder.iterdir()}:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.fixture(scope="module")
def model(base: Path) -> Iterator[Loaded]:
    """The debug model, as jobs have it."""
    loaded = FAMILY.load(base, CARD, Device("cpu"))
    yield loaded
    FAMILY.unload(loaded)


def test_jobs_use_it(model: Loaded, exported: tuple[VoiceTuning, Path]) -> None:
    """Alone as in a batch, by its weight, for labels too; and afterwards the model is as it was."""
    voice = Adapter("voice@1", 1.0, exported[1])
    plain = [item(seed, text=f"a {'mug ' * seed}", temperature=0.7) for seed in range(1, 4)]
    worn = [replace(one, adapters=[voice]) for one in plain]
    label = item(recipe="sentiment")
    before, label_before = [one.data for one in made(model, *plain)], made(model, label)[0].data
    together = [one.data for one in made(model, *worn)]
    assert together == [made(model, one)[0].data for one in worn]
    assert all(a != b for a, b in zip(together, before, strict=True))
    none, half = ([replace(voice, weight=weight)] for weight in (0.0, 0.5))
    assert made(model, replace(plain[0], adapters=none))[0].data == before[0]
    assert made(model, replace(plain[2], adapters=half))[0].data not in (before[2], together[2])
    assert made(model, replace(label, adapters=[voice]))[0].data != label_before
    assert [one.data for one in made(model, *plain)] == before
    assert made(model, label)[0].data == label_before


def test_it_writes_in_jobs_as_in_training(
    model: Loaded, exported: tuple[VoiceTuning, Path]
) -> None:
    """The scores of the model with it on are those of the training, and those of the base."""
    training, folder = exported
    module = training.learners["adapter"].module.eval()
    ids = torch.tensor([[9, 8, 7, 6]])
    with torch.no_grad():
        model.adapters.use(model.model, [Adapter("voice@1", 1.0, folder)])
        assert torch.equal(model.model(ids).logits, module(ids).logits)
        model.adapters.use(model.model, [])
        with module.disable_adapter():
            assert torch.equal(model.model(ids).logits, module(ids).logits)


def test_they_do_not_pile_up(model: Loaded, exported: tuple[VoiceTuning, Path]) -> None:
    """Those used longest ago are taken off, and put on again when they are asked for."""
    several = [Adapter(f"v{n}@1", 1.0, exported[1]) for n in range(KEPT + 2)]
    worn = [replace(item(seed=4), adapters=[each]) for each in [*several, several[0]]]
    assert len({made(model, one)[0].data for one in worn}) == 1
    assert len(model.model.peft_config) == KEPT


def test_one_that_does_not_fit(
    model: Loaded, exported: tuple[VoiceTuning, Path], tmp_path: Path
) -> None:
    """Its jobs are told, whatever does not fit, and the model is as good as before."""
    before = made(model, item())[0].data
    tensors = load_file(exported[1] / WEIGHTS)
    renamed = {name.replace("layers.1", "layers.9"): one for name, one in tensors.items()}
    narrow = {name: one[..., :-1].clone() for name, one in tensors.items()}
    for number, wrong in enumerate((renamed, narrow)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(wrong, folder / WEIGHTS)
        settings = (exported[1] / "adapter_config.json").read_bytes()
        (folder / "adapter_config.json").write_bytes(settings)
        adapter = Adapter(f"wrong{number}@1", 1.0, folder)
        error = failed(model, replace(item(), adapters=[adapter]))
        assert error.code == "adapter_does_not_fit"
        assert made(model, item())[0].data == before


def test_what_cannot_begin(base: Path) -> None:
    """Quantised weights without a GPU, and texts that are cut before anything is to be learnt."""
    with pytest.raises(ValueError, match="nf4 needs a GPU; this worker has no GPU"):
        tuning(base, quantize="nf4")
    with pytest.raises(TrainingError, match="none of the texts comes to what the assistant says"):
        tuning(
            base, Data("d", None, texts=[{"prompt": "a" * 99, "completion": "b"}]), max_tokens=16
        )


def test_memory(base: Path) -> None:
    """What a pass keeps is reckoned with, about as it is; too much of it is refused in numbers."""
    training = tuning(base, batch=10, rank=16)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = list(training.learners["adapter"].module.parameters())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        training.step(0)
    weights = {one.untyped_storage().data_ptr() for one in parameters}
    passes = sum(size for place, size in kept.items() if place not in weights)
    need = training.need
    assert need.base == sum(one.nbytes for one in parameters if not one.requires_grad)
    assert 0.7 < need.passes / passes < 2
    with pytest.raises(
        TrainingError, match=r"needs about .* GB .*, and this worker has .* GB: ask"
    ):
        preflight.check(need, need.total - 1, footing.CHANGE)
    preflight.check(need, need.total, footing.CHANGE)
