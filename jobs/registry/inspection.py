"""What model files may be: data that is read, never code that is run. All else is refused."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open

from jobs.problems import Problem
from jobs.registry import onnx, trees

WEIGHTS = (".safetensors", ".gguf", ".onnx")
TEXTS = (".jinja", ".md", ".tiktoken", ".txt", ".vocab")
NAMES = ("licence", "license", "notice", "readme")
ALLOWED = tuple(
    [f"*{suffix}" for suffix in (*WEIGHTS, *TEXTS, ".json", ".model", ".onnx_data", ".onnx.data")]
    + [f"*{spelt}" for name in NAMES for spelt in (name.upper(), name.capitalize())]
)
"""As patterns for file names, by which sources that hold other files as well are searched."""

INDEXES = ("model_index.json", "modular_model_index.json")
"""Where diffusers names the class of each component, and the library that it is from."""
LIBRARIES = (None, "diffusers", "transformers")
"""The libraries of components, beside the modules of diffusers' own pipelines."""

CODE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "_attn_implementation": "may name code on the hub; the worker chooses how to compute",
        "_attn_implementation_internal": "may name code on the hub (CVE-2026-4372)",
        "_experts_implementation": "may name code on the hub; the worker chooses how to compute",
        "_experts_implementation_internal": "may name code on the hub (CVE-2026-4372)",
        "attn_implementation": "may name code on the hub; the worker chooses how to compute",
        "auto_map": "names Python code to be run",
        "auto_mapping": "names a Python module to be imported",
        "custom_generate": "names Python code to be run",
        "custom_pipeline": "names Python code to be run",
        "custom_pipelines": "names Python code to be run",
        "experts_implementation": "may name code on the hub; the worker chooses how to compute",
        "trust_remote_code": "asks for code to be trusted (CVE-2026-5241)",
    }
)
"""Keys of configurations by which a library can be led to load code, at whatever depth."""

_MIB = 1024 * 1024
MAX_TEXT_BYTES = 256 * _MIB
MAX_GIVEN = 30
"""Problems that are listed one by one."""

_DISGUISES: Mapping[bytes, str] = MappingProxyType(
    {
        **{bytes([0x80, protocol]): "a pickle, which is code" for protocol in range(2, 6)},
        b"PK\x03\x04": "a zip archive, as torch.save writes",
        b"\x7fELF": "a program",
        b"<!doctype html": "a web page, perhaps of a failed download",
        b"<html": "a web page, perhaps of a failed download",
        b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself",
    }
)


class UnsafeModelError(ValueError):
    """The files hold code, ask for code from outside, or are not what their names say."""


def check_tree(folder: Path) -> None:
    """Make sure once more, before a model is loaded, that loading it runs nobody's code but ours.

    Raises:
        UnsafeModelError: what is refused, all of it.
    """
    tree = trees.read(folder)
    problems = [*tree.problems, *problems_of(tree.files)]
    if problems:
        raise UnsafeModelError("; ".join(str(problem) for problem in problems[:MAX_GIVEN]))


def problems_of(files: Mapping[str, Path]) -> list[Problem]:
    """What speaks against the files of a model, by their paths below its directory."""
    problems: list[Problem] = []
    external: set[str] = set()
    for path, file in files.items():
        if path.lower().endswith(".onnx"):
            try:
                external |= _external(path, file, files)
            except ValueError as error:
                problems.append(Problem(f"is refused as ONNX: {error}", file=path))
    for path, file in files.items():
        if path in external:
            continue  # raw numbers, that only an ONNX file here reads
        check = _check_of(path)
        if check is None:
            reason = (
                "is refused: a model is safetensors, GGUF, ONNX, JSON, text and tokenizer files; "
                "what else there may be can hold code"
            )
            problems.append(Problem(reason, file=path))
            continue
        try:
            problems += [Problem(found, file=path) for found in check(path, file, files)]
        except (ValueError, SafetensorError, RecursionError) as error:
            problems.append(Problem(str(error), file=path))
    return problems


Check = Callable[[str, Path, Mapping[str, Path]], Iterator[str]]


def _check_of(path: str) -> Check | None:
    pure = PurePosixPath(path.lower())
    if pure.suffix in TEXTS or pure.name in NAMES:
        return _text
    return _CHECKS.get(pure.suffix)


def _safetensors(_path: str, file: Path, _files: Mapping[str, Path]) -> Iterator[str]:
    """What the library finds wrong with the header.

    It checks the length (at most 100 MB) and the JSON, each tensor's dtype and shape, and that the
    tensors follow one another without gaps or overlaps up to the file's end.
    """
    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        disguise = _disguise(file)
        yield f"is not safetensors but {disguise}" if disguise else f"is not safetensors: {error}"


def _gguf(_path: str, file: Path, _files: Mapping[str, Path]) -> Iterator[str]:
    start = _start(file)
    if start[:4] != b"GGUF" or start[4:8] not in (b"\x02\0\0\0", b"\x03\0\0\0"):
        yield f"is not GGUF of version 2 or 3 but {_disguise(file) or 'something else'}"


def _onnx(_path: str, _file: Path, _files: Mapping[str, Path]) -> Iterator[str]:
    yield from ()  # seen before the other files, of which some are its weights


def _external(path: str, file: Path, files: Mapping[str, Path]) -> set[str]:
    locations, domains = onnx.outside(file)
    if domains:
        raise ValueError(f"its operators are of a library that is not here: {', '.join(domains)}")
    found = {(PurePosixPath(path).parent / location).as_posix() for location in locations}
    missing = sorted(found - files.keys())
    if missing:
        raise ValueError(f"its weights lie outside of the model, or are missing: {missing[0]}")
    return found


def _text(_path: str, file: Path, _files: Mapping[str, Path]) -> Iterator[str]:
    disguise = _disguise(file)
    if disguise:
        yield f"is no text but {disguise}"
    elif not _is_text(file):
        yield "is no text in UTF-8"


def _sentencepiece(_path: str, file: Path, _files: Mapping[str, Path]) -> Iterator[str]:
    disguise = _disguise(file)
    # Its protobuf starts with the first piece: field 1, length-delimited. Others are text.
    if disguise or not (_start(file).startswith(b"\n") or _is_text(file)):
        yield f"is no tokenizer of SentencePiece but {disguise or 'something else'}"


def _json(path: str, file: Path, files: Mapping[str, Path]) -> Iterator[str]:
    disguise = _disguise(file)
    if disguise:
        yield f"is not JSON but {disguise}"
        return
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Every pair, also those that a second one of the same name would hide.
        found.extend(
            f"has {key!r}, which {CODE_KEYS[key]}"
            for key, value in pairs
            if key in CODE_KEYS and value is not None and value is not False
        )
        found.extend(
            f"has a list as '_class_name', which names Python code to be run: {value!r:.80}"
            for key, value in pairs
            if key == "_class_name" and not isinstance(value, str)
        )
        return dict(pairs)

    try:
        document = json.loads(_read(file), object_pairs_hook=look)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    yield from dict.fromkeys(found)
    name = PurePosixPath(path).name
    if name in INDEXES:
        yield from _index(document)
    if name.endswith(".index.json"):
        yield from _shards(path, document, files)


def _index(document: Any) -> Iterator[str]:
    """Components from libraries other than those whose classes are known to be data's."""
    if not isinstance(document, dict):
        yield "is no object"
        return
    for component, value in document.items():
        if component.startswith("_") or not isinstance(value, list):
            continue
        library = value[0] if value else None
        if library not in LIBRARIES and library not in _pipeline_modules():
            yield f"has a component {component!r} from {library!r}, which is refused"


@cache
def _pipeline_modules() -> frozenset[str]:
    """Where diffusers itself keeps parts of single pipelines; it is looked at, not imported."""
    package = find_spec("diffusers")
    folders = (package and package.submodule_search_locations) or ()
    modules = (Path(folder).glob("pipelines/*/__init__.py") for folder in folders)
    return frozenset(module.parent.name for found in modules for module in found)


def _shards(path: str, document: Any, files: Mapping[str, Path]) -> Iterator[str]:
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict):
        yield "has no 'weight_map'"
        return
    for shard in dict.fromkeys(map(str, weight_map.values())):
        if not shard.endswith(".safetensors"):
            yield f"names {shard}, which is not safetensors"
        elif (PurePosixPath(path).parent / shard).as_posix() not in files:
            yield f"names {shard}, which is not beside it"


_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        ".gguf": _gguf,
        ".json": _json,
        ".model": _sentencepiece,
        ".onnx": _onnx,
        ".safetensors": _safetensors,
    }
)


def _start(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(64)


def _read(file: Path) -> str:
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"is larger than {MAX_TEXT_BYTES // _MIB} MiB, which text never is")
    return file.read_text(encoding="utf-8")


def _is_text(file: Path) -> bool:
    try:
        return "\0" not in _read(file)
    except UnicodeDecodeError:
        return False


def _disguise(file: Path) -> str | None:
    start = _start(file).lstrip(b" \t\r\n\xef\xbb\xbf")
    for magic, what in _DISGUISES.items():
        if start[: len(magic)].lower() == magic.lower():
            return what
    return None
