"""What a model may be made of, and that all else is refused by name."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.registry import inspection, trees
from jobs.registry.inspection import UnsafeModelError
from tests.model_trees import pipeline, tensors, write


def said(folder: Path) -> list[str]:
    """What is wrong with a directory, in the words that users read."""
    tree = trees.read(folder)
    return [str(problem) for problem in [*tree.problems, *inspection.problems_of(tree.files)]]


def protobuf(number: int, content: bytes) -> bytes:
    """A length-delimited field of fewer than 128 bytes."""
    return (
        bytes([number << 3 & 0x7F | 2 | (0x80 if number > 15 else 0)])
        + (bytes([number >> 4]) if number > 15 else b"")
        + bytes([len(content)])
        + content
    )


def onnx(location: str = "", domain: str = "") -> bytes:
    """A model with one operator set and one tensor, which may lie in another file."""
    external = protobuf(1, b"location") + protobuf(2, location.encode())
    tensor = protobuf(8, b"w") + (protobuf(13, external) if location else b"")
    return protobuf(7, protobuf(5, tensor)) + protobuf(8, protobuf(1, domain.encode()))


def test_what_a_model_is_made_of(tmp_path: Path) -> None:
    """Weights that are data, configurations, tokenizers and texts pass; hidden files are told."""
    pipeline(tmp_path)
    write(tmp_path / "LICENSE", "MIT")
    write(tmp_path / "chat_template.jinja", "{{ messages }}")
    write(tmp_path / "text" / "spiece.model", b"\n\x0f\n\x05<unk>\x15\0\0\0\0\x18\x02")
    write(tmp_path / "text" / "tokenizer.model", "IQ== 0\n")
    write(tmp_path / "model.gguf", b"GGUF" + struct.pack("<I", 3))
    write(tmp_path / "voice.onnx", onnx("voice.onnx_data", "com.microsoft"))
    write(tmp_path / "voice.onnx_data", b"\x80\x02 raw numbers may begin with anything")
    write(tmp_path / "config.json", {"attn_implementation": None, "trust_remote_code": False})
    write(tmp_path / ".git" / "hooks" / "post-checkout", "#!/bin/sh")
    assert said(tmp_path) == []
    assert trees.read(tmp_path).left_out == [".git"]
    inspection.check_tree(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("model.bin", "model.pt", "model.pth", "model.ckpt", "data.pkl", "arrays.npz", "m.npy"),
        *("modeling.py", "None.py", "kernel.so", "model.h5", "flax.msgpack", "m.keras", "run.sh"),
        *("config.yaml", "onnx_data", "README.html", "licence.exe"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    """Whatever is not on the list is named, wherever it lies."""
    write(tmp_path / "unet" / name, "x")
    (problem,) = said(tmp_path)
    assert problem.startswith(f"unet/{name}: is refused: a model is safetensors, GGUF, ONNX")


PICKLE = pickle.dumps({"weights": [1, 2, 3]})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.safetensors", PICKLE, "is not safetensors but a pickle, which is code"),
        ("m.safetensors", b"PK\x03\x04", "is not safetensors but a zip archive"),
        ("m.safetensors", struct.pack("<Q", 1 << 40) + b"{}", "is not safetensors: "),
        ("m.safetensors", b"", "is not safetensors: "),
        ("m.gguf", PICKLE, "is not GGUF of version 2 or 3 but a pickle"),
        ("m.onnx", PICKLE, "is refused as ONNX: "),
        ("m.onnx", onnx("../../etc/passwd"), "its weights lie outside of the model, or are miss"),
        ("m.onnx", onnx("/etc/passwd"), "its weights lie outside of the model, or are missing"),
        ("m.onnx", onnx(domain="evil.ops"), "a library that is not here: evil.ops"),
        ("config.json", PICKLE, "is not JSON but a pickle"),
        ("config.json", "<!DOCTYPE html><p>Sign in", "is not JSON but a web page"),
        ("config.json", "{'a': 1}", "is not JSON: "),
        ("config.json", b"\xff\xfe", "is not JSON: "),
        ("config.json", "[" * 100_000, "recursion"),
        ("vocab.txt", b"\x7fELF\x02", "is no text but a program"),
        ("vocab.txt", b"a\0b", "is no text in UTF-8"),
        ("spiece.model", PICKLE, "is no tokenizer of SentencePiece but a pickle"),
        ("m.safetensors", "version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        ("m.safetensors.index.json", '{"weight_map": {"w": "../m.safetensors"}}', "not beside it"),
        ("m.safetensors.index.json", '{"weight_map": {"w": "m.txt"}}', "which is not safetensors"),
    ],
)
def test_disguises(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """A name promises a content; what holds another one is refused and said to be what it is."""
    write(tmp_path / name, content)
    (problem,) = said(tmp_path)
    assert problem.startswith(f"{name}: ")
    assert message in problem


def test_nothing_behind_the_tensors(tmp_path: Path) -> None:
    """A file that is safetensors and, from its end, an archive as well, is neither."""
    path = tensors(tmp_path / "m.safetensors", {"w": (2, 2)})
    path.write_bytes(path.read_bytes() + b"PK\x05\x06" + bytes(18))
    (problem,) = said(tmp_path)
    assert "m.safetensors: is not safetensors" in problem


@pytest.mark.parametrize("key", inspection.CODE_KEYS)
def test_keys_that_lead_to_code(tmp_path: Path, key: str) -> None:
    """A configuration that would have a library load code is refused, however deep it says so."""
    write(tmp_path / "a.json", {"layers": [{"inner": {key: "evil/repo"}}]})
    write(tmp_path / "b.json", f'{{"{key}": "evil/repo", "{key}": null}}')
    problems = said(tmp_path)
    assert [problem[:6] for problem in problems] == ["a.json", "b.json"]
    assert all(repr(key) in problem for problem in problems)


def test_foreign_components(tmp_path: Path) -> None:
    """Components come from diffusers and transformers; a pipeline's class is a name, not a file."""
    components = {
        "_class_name": ["pipeline", "Evil"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "projection_model": ["stable_audio", "StableAudioProjectionModel"],
        "feature_extractor": [None, None],
        "vae": ["os", "system"],
        "scheduler": ["my_scheduler", "Evil"],
    }
    write(tmp_path / "model_index.json", components)
    first, *others = said(tmp_path)
    assert "a list as '_class_name', which names Python code to be run" in first
    assert [problem.partition(" from ")[2] for problem in others] == [
        "'os', which is refused",
        "'my_scheduler', which is refused",
    ]


def link_out(folder: Path) -> None:
    """To a file that is not the model's."""
    (folder / "x.txt").symlink_to("/etc/hostname")


def link_to_folder(folder: Path) -> None:
    """To a directory, even one of the model's."""
    (folder / "x").symlink_to(folder / "vae")


def pipe(folder: Path) -> None:
    """A pipe, which reading would wait for."""
    os.mkfifo(folder / "x.txt")


def twins(folder: Path) -> None:
    """Two files that are one on many file systems."""
    write(folder / "A.txt", "1")
    write(folder / "a.txt", "2")


def backslash(folder: Path) -> None:
    """A name that is a path elsewhere."""
    write(folder / "a\\..\\x.txt", "1")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (link_out, "x.txt: is a link out of the directory"),
        (link_to_folder, "x: is a link, but to no file"),
        (pipe, "x.txt: is no file but a pipe"),
        (twins, "a.txt: A.txt has the same name on many file systems"),
        (backslash, "x.txt: its path leads out of the directory"),
    ],
)
def test_files_that_are_none(tmp_path: Path, tamper: Callable[[Path], None], message: str) -> None:
    """What is no plain file of the model's, or would not be one everywhere, is refused."""
    tamper(pipeline(tmp_path))
    (problem,) = said(tmp_path)
    assert message in problem


def test_a_link_within(tmp_path: Path) -> None:
    """A link from one of the model's files to another is that file."""
    pipeline(tmp_path)
    (tmp_path / "again.json").symlink_to("model_index.json")
    assert said(tmp_path) == []
    assert trees.read(tmp_path).files["again.json"].name == "model_index.json"


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is no model at all does not fill the registry."""
    monkeypatch.setattr(trees, "MAX_FILES", 3)
    for number in range(5):
        write(tmp_path / f"{number}.txt", "x")
    assert said(tmp_path) == ["there are more than 3 files"]


def test_all_at_once(tmp_path: Path) -> None:
    """Whoever mends a model is told all that is wrong with it, and a worker refuses it as such."""
    for name in ("a.py", "b.bin", "c.pkl"):
        write(pipeline(tmp_path) / name, "x")
    assert len(said(tmp_path)) == 3
    with pytest.raises(UnsafeModelError, match=r"a\.py.*b\.bin.*c\.pkl"):
        inspection.check_tree(tmp_path)
