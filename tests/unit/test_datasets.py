"""What a dataset may be made of, and what is said of anything else."""

import io
import json
import stat
import zipfile
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from jobs.datasets import reading, texts, triggers
from jobs.datasets.checked import Checked
from jobs.datasets.checking import checked
from jobs.datasets.definition import ContentSpec, DatasetSpec, licence_problems
from jobs.problems import BadInputError
from jobs.registry import archives
from storage.objects import sha256_hex
from tests.dataset_files import (
    chat,
    drawn,
    encoded,
    imagefolder,
    jsonl,
    mask,
    metadata,
    pairs,
    photo,
    zipped,
)


def found(data: bytes, name: str = "mugs.zip", **spec: Any) -> Checked:
    """What an upload is found to be."""
    with (
        reading.uploaded(io.BytesIO(data), name) as material,
        checked(material, ContentSpec(**spec)) as content,
    ):
        for sha256, file in content.pictures.items():
            assert sha256_hex(file.read_bytes()) == sha256
        return content


def items(content: Checked) -> list[dict[str, Any]]:
    """The lines of a manifest."""
    return [json.loads(line) for line in content.manifest.splitlines()]


def refused(data: bytes, name: str = "mugs.zip", **spec: Any) -> list[str]:
    """All that is said of an upload that is not taken."""
    with pytest.raises(BadInputError) as error:
        found(data, name, **spec)
    return [str(problem) for problem in error.value.problems]


def test_an_imagefolder() -> None:
    """Captions come from metadata and sidecars, masks from side files and alpha; others wait."""
    cut_out = drawn(3, 80, 80)
    cut_out.putalpha(Image.linear_gradient("L").resize((80, 80)))
    opaque = drawn(4)
    opaque.putalpha(255)
    files = {
        "shop/metadata.jsonl": metadata(
            {"0.png": "a brandx-mug", "old/1.jpg": "an old brandx-mug"}
        ),
        "shop/0.png": photo(0),
        "shop/0.mask.png": mask(shade=128),
        "shop/old/1.jpg": encoded(drawn(1), "JPEG"),
        "shop/2.webp": encoded(drawn(2), "WEBP"),
        "shop/2.txt": "ein Becher, größer\n".encode(),
        "shop/3.png": encoded(cut_out),
        "shop/4.png": encoded(opaque),
        "shop/notes.csv": b"x",
        "__MACOSX/shop/._0.png": b"x",
        "LICENSE.txt": b"x",
    }
    content = found(zipped(files), caption="a mug", trigger="brandx-mug")
    assert (content.kind, content.count, content.masks) == ("pictures", 5, 2)
    assert content.sizes == {"96x80": 4, "80x80": 1}
    rows = {item["file"].removeprefix("shop/"): item for item in items(content)}
    assert {name: (row["caption"], row["mask"]) for name, row in rows.items()} == {
        "0.png": ("a brandx-mug", rows["0.png"]["mask"]),
        "2.webp": ("ein Becher, größer", None),
        "3.png": ("a mug", "alpha"),
        "4.png": ("a mug", None),
        "old/1.jpg": ("an old brandx-mug", None),
    }
    assert set(content.pictures) == {
        *(row["picture"] for row in rows.values()),
        rows["0.png"]["mask"],
    }
    assert [str(warning) for warning in content.warnings] == [
        "left out: shop/notes.csv, LICENSE.txt",
        "trigger: 'brandx-mug' is in 2 of 5 captions",
    ]


def test_the_digest_is_the_content() -> None:
    """It is the same whatever the order in the archive, and another one with another caption."""
    files = imagefolder()
    same = dict(reversed(files.items()))
    other = {**files, "metadata.jsonl": files["metadata.jsonl"].replace(b"number 2", b"number 3")}
    digests = [found(zipped(one)).digest for one in (files, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_all_that_is_wrong_is_said_at_once() -> None:
    """Each with its file, and with its line where it has any."""
    captions = {f"{name}.png": name for name in ("a", "cut", "small", "first", "again", "masked")}
    files = {
        "metadata.jsonl": metadata(captions)
        + jsonl([{"file_name": "no.png", "text": "x"}, {"text": "x"}, {"file_name": "a.png"}, 5])
        + b"{\n",
        "a.png": photo(1),
        "a.txt": b"twice",
        "b.png": photo(2),
        "b.jpg": encoded(drawn(7), "JPEG"),
        "b.txt": b"whose?",
        "c.txt": b"of nothing",
        "anim.gif": b"GIF89a",
        "anim.txt": b"a film",
        "cut.png": photo(3)[:-9],
        "small.png": photo(4, 63, 200),
        "first.png": photo(5),
        "again.png": photo(5),
        "masked.png": photo(6),
        "masked.mask.png": mask(95),
        "other.mask.png": mask(),
        "latin.png": photo(8),
        "latin.txt": "größer".encode("latin-1"),
    }
    assert refused(zipped(files)) == [
        "a.txt: a.png has a caption already, from metadata.jsonl:1",
        "anim.gif: is GIF: send PNG, JPEG or WebP",
        "b.jpg: caption: has no caption; one can be given for all that have none",
        "b.png: b.jpg has the same name: a caption or a mask could be either's",
        "c.txt: is a caption, but there is no picture of the same name",
        "cut.png: is damaged or cut off: it ends before the picture does",
        "first.png: is the same picture as again.png",
        "latin.png: caption: has no caption; one can be given for all that have none",
        "latin.txt:1: byte 0xf6 is not UTF-8; save the file as UTF-8",
        (
            "masked.mask.png: has 95x80 pixels, and masked.png 96x80: a mask must have the size of "
            "its picture"
        ),
        "metadata.jsonl:7: file_name: there is no picture 'no.png' beside this file",
        "metadata.jsonl:8: file_name: is required, as text",
        "metadata.jsonl:9: text: is required, as text",
        "metadata.jsonl:10: must be a JSON object",
        (
            "metadata.jsonl:11: is not JSON: Expecting property name enclosed in double quotes at "
            "character 2"
        ),
        "other.mask.png: is a mask, but there is no picture of that name",
        "small.png: has 63x200 pixels; the shorter side must have at least 64",
    ]


def test_too_few_and_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both limits are said; of too many nothing is decoded."""
    few = "source: has 2 pictures; 3 to 5000 can be taken"
    assert refused(zipped(imagefolder(2))) == [few]
    monkeypatch.setattr("jobs.datasets.pictures.MAX_PICTURES", 3)
    broken = {f"{n}.png": b"no picture" for n in range(4)}
    many = "source: has 4 pictures; 3 to 3 can be taken"
    assert refused(zipped(broken), caption="x") == [many]


def test_masks_that_weigh_nothing() -> None:
    """A black mask or a wholly transparent picture is refused; a black shape is a picture."""
    clear, shape = drawn(8), Image.new("RGB", (80, 80))
    clear.putalpha(0)
    shape.putalpha(Image.linear_gradient("L").resize((80, 80)))
    files = {"0.mask.png": mask(shade=0), "8.png": encoded(clear), "9.png": encoded(shape)}
    assert refused(zipped({**imagefolder(), **files}), caption="x") == [
        "0.mask.png: is black all over: nothing of 0.png would be learnt",
        "8.png: is transparent all over",
    ]


def test_duplicates() -> None:
    """The same picture again is refused unless allowed; one that was only saved anew is named."""
    anew = drawn(0).resize((240, 200)).convert("RGB")
    files = {
        **imagefolder(),
        "jpeg.jpg": encoded(anew, "JPEG"),
        "same.png": photo(1),
    }
    data = zipped(files)
    assert refused(data, caption="x") == ["same.png: is the same picture as 1.png"]
    content = found(data, caption="x", allow_duplicates=True)
    assert content.count == 5
    assert [str(warning) for warning in content.warnings] == [
        "same.png: is the same picture as 1.png",
        "jpeg.jpg: is nearly the same picture as 0.png",
    ]


def link() -> zipfile.ZipInfo:
    """An entry that is a symbolic link."""
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_unsafe_entries() -> None:
    """Links, paths that lead out, bombs and names that are one name elsewhere are refused."""
    files: dict[Any, bytes] = {
        **imagefolder(),
        link(): b"/etc/passwd",
        "../out.png": photo(7),
        "/root.png": photo(8),
        "bomb.png": bytes(20 * 1024**2),
        "METADATA.jsonl": b"",
        "n" * 256 + ".png": b"",
    }
    said = refused(zipped(files), caption="x")
    assert said == [
        "../out.png: its path leads out of the directory",
        "/root.png: its path leads out of the directory",
        "METADATA.jsonl: metadata.jsonl has the same name on many file systems",
        "bomb.png: is packed more than 100 times: no such file has that little in it",
        "link.png: is a link",
        f"{'n' * 256}.png: its path has a name that is longer than 255 bytes",
    ]


def test_archives_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no archive is said, and one with too long a list is not read at all."""
    good = zipped(imagefolder())
    assert refused(b"no archive") == ["mugs.zip: is no ZIP archive, or it is cut off"]
    assert refused(good[:-9]) == ["mugs.zip: is no ZIP archive, or it is cut off"]
    damaged = "metadata.jsonl: is damaged: it begins before its archive does"
    assert damaged in refused(good[50:], caption="x")
    flags = good.index(b"PK\x01\x02") + 8
    encrypted = good[:flags] + b"\x01" + good[flags + 1 :]
    assert "metadata.jsonl: is encrypted" in refused(encrypted, caption="x")
    (said,) = refused(good, "mugs.rar")
    assert said == "file: 'mugs.rar' ends in neither .zip (pictures) nor .jsonl (text)"
    end = good.index(b"PK\x05\x06")
    larger = good[:end] + b"PK\x06\x07" + bytes(16) + good[end:]
    for data, limit in ((larger, archives.MAX_DIRECTORY_BYTES), (good, 50)):
        monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", limit)
        assert refused(data) == ["mugs.zip: has too many files, or is in the format ZIP64"]


def test_archives_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it is counted, in bytes and in files, before it is written."""
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 4000)
    data = zipped({f"{n}.txt": bytes(1500) for n in range(3)})
    assert "2.txt: is one too many: unpacked, 3.72529e-06 GiB may be in it" in refused(data)
    monkeypatch.setattr("jobs.registry.trees.MAX_FILES", 2)
    assert "there are more than 2 files" in refused(data)


def test_texts() -> None:
    """Chats and pairs are kept as they are, one form in each file."""
    content = found(jsonl(pairs()), "voice.jsonl", trigger="brandx")
    assert (content.kind, content.count, content.sizes) == ("text", 10, {})
    assert items(content) == pairs()
    assert [str(one) for one in content.warnings] == ["trigger: 'brandx' is in none of 10 texts"]
    chats = [
        chat(("system", "Be short."), ("user", f"mug {n}"), ("assistant", "A mug!"))
        for n in range(10)
    ]
    assert items(found(b"\xef\xbb\xbf\n" + jsonl(chats), "voice.jsonl")) == chats


def test_texts_that_are_wrong() -> None:
    """Each is said with its line."""
    turns = (
        "after an optional `system` the roles must be `user` and `assistant` in turns, the last "
    )
    bad = [
        chat(("user", "a"), ("assistant", "b")),
        chat(("user", "a"), ("assistant", " ")),
        chat(("user", "a"), ("robot", "b")),
        chat(("user", "a")),
        chat(("user", "a"), ("user", "b")),
        chat(("user", "a"), ("system", "b")),
        chat(("user", "a"), ("assistant", "b"), ("user", "c")),
        {"prompt": "a", "completion": "b"},
        {"messages": [{"role": "user", "content": "a", "nmae": "x"}, {}], "weight": 1},
        {"messages": "a"},
        chat(("user", "a\0"), ("assistant", "b")),
    ]
    said = refused(jsonl(bad) + b"\xff\n[]\n", "voice.jsonl")
    assert said == [
        "voice.jsonl:2: messages[1].content: must not be empty",
        "voice.jsonl:3: messages[1].role: Input should be 'system', 'user' or 'assistant'",
        "voice.jsonl:4: messages: List should have at least 2 items after validation, not 1",
        f"voice.jsonl:5: {turns}one `assistant`",
        f"voice.jsonl:6: {turns}one `assistant`",
        f"voice.jsonl:7: {turns}one `assistant`",
        "voice.jsonl:8: is a pair, and the first line is a chat: a dataset has one of them",
        "voice.jsonl:9: messages[0].nmae: unknown key; known: content, role",
        "voice.jsonl:9: messages[1].role: is required",
        "voice.jsonl:9: messages[1].content: is required",
        "voice.jsonl:9: weight: unknown key; known: messages",
        "voice.jsonl:10: messages: Input should be a valid list",
        "voice.jsonl:11: messages[0].content: holds a NUL character, which cannot be stored",
        "voice.jsonl:12: byte 0xff is not UTF-8; save the file as UTF-8",
        "voice.jsonl:13: must be a JSON object",
    ]


def test_how_many_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few, too many, too long and too large are refused, and so is the same text again."""
    assert refused(jsonl(pairs(9)), "v.jsonl") == [
        "v.jsonl: has 9 texts; 10 to 100000 can be taken"
    ]
    assert refused(b"", "v.jsonl") == ["v.jsonl: has 0 texts; 10 to 100000 can be taken"]
    again = jsonl([*pairs(), pairs()[3]])
    assert refused(again, "v.jsonl") == ["v.jsonl:11: is the same as line 4"]
    assert found(again, "v.jsonl", allow_duplicates=True).count == 11
    monkeypatch.setattr(texts, "MAX_TEXTS", 9)
    monkeypatch.setattr(texts, "MIN_TEXTS", 1)
    assert refused(jsonl(pairs()), "v.jsonl") == ["v.jsonl: has 10 texts; 1 to 9 can be taken"]
    long = jsonl([{"prompt": "x" * 1024**2, "completion": "x"}])
    assert refused(long, "v.jsonl") == [
        "v.jsonl:1: is longer than 1024 KiB; nothing after it was read"
    ]
    monkeypatch.setattr(reading, "MAX_TEXT_BYTES", 100)
    assert refused(jsonl(pairs()), "v.jsonl")[0].startswith("v.jsonl: has more than")
    assert "caption: is for pictures" in refused(b"", "v.jsonl", caption="x")


def test_triggers() -> None:
    """One made-up word is taken; a common one, or several, would mean something else."""
    assert [triggers.wrong(word) for word in ("brandx-mug", "sks", "x1_y")] == [None] * 3
    for word in ("a mug", "Mug", "photo", "x", "", "x" * 33, "größer", "-mug", "mug."):
        assert triggers.wrong(word), word
    assert triggers.uses("sks", ["a SKS mug", "sks.", "desks", "sks-2 mug", "sksx"]) == 2


def spec(**changes: object) -> DatasetSpec:
    """What is said of a dataset."""
    given = {"name": "mugs", "licence": "MIT", "consent": "no person is shown"}
    return DatasetSpec.model_validate({**given, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"licence": "MITT"}, "did you mean 'MIT'"),
        ({"licence": " "}, "must not be empty"),
        ({"consent": " "}, "must not be empty"),
        ({"consent": None}, "valid string"),
        ({"name": "a/b"}, "match pattern"),
        ({"trigger": "photo"}, "is a common word"),
        ({"caption": " "}, "must not be empty"),
        ({"other": 1}, "Extra inputs"),
    ],
)
def test_what_is_said_of_a_dataset(changes: dict[str, object], reason: str) -> None:
    """Licence and consent are required, and all has a form."""
    with pytest.raises(ValidationError, match=reason):
        spec(**changes)


def test_the_licence_of_a_dataset() -> None:
    """Terms of one's own have a name; a licence that wants the author named gets it."""
    assert not list(licence_problems(spec(licence="LicenseRef-acme-owned")))
    (problem,) = licence_problems(spec(licence="CC-BY-4.0"))
    assert (problem.field, "author" in problem.message) == ("attribution", True)
    assert not list(licence_problems(spec(licence="CC-BY-4.0", attribution="Ada")))
    (problem,) = licence_problems(spec(licence="CC-BY-ND-4.0", attribution="Ada"))
    assert "nothing may be trained on it" in str(problem)
