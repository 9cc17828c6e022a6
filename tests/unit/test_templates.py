"""Liquid templates: what renders, what is refused, and with which words."""

import pytest

from jobs.campaigns import templates
from jobs.problems import BadInputError

REPEATED = "{% assign a = a | append: a %}"


def render(source: str, **row: object) -> str:
    """Parsed and rendered at once."""
    return templates.render(templates.parse(source), row)


@pytest.mark.parametrize(
    ("source", "row", "text"),
    [
        ("{{ product }} on {{ colour }}", {"product": "mug", "colour": "blue"}, "mug on blue"),
        ('{{ ["First Name"] }}', {"First Name": "Ada"}, "Ada"),
        ('{{ colour | default: "red" }}', {}, "red"),
        ('{{ colour | default: "red" }}', {"colour": ""}, "red"),
        ("{{ nick | default: name | default: 'you' }}", {}, "you"),
        ("{{ 顏色 }}", {"顏色": "藍 🎨"}, "藍 🎨"),
        ("{{ address.city }}", {"address": {"city": "Köln"}}, "Köln"),
        ("{% for tag in tags %}{{ tag }};{% endfor %}", {"tags": ["a", "b"]}, "a;b;"),
        ("{{ none }}", {"none": None}, ""),
    ],
)
def test_render(source: str, row: dict[str, object], text: str) -> None:
    """A template renders a recipient's columns, with defaults where they are absent or empty."""
    assert render(source, **row) == text


@pytest.mark.parametrize("value", ["{{ other }}", "{% raw %}", "{% include 'x' %}", "{{", "&<>"])
def test_data_is_never_template(value: str) -> None:
    """A recipient's value comes out verbatim, even if it looks like Liquid."""
    assert render("[{{ x }}]", x=value, other="leaked") == f"[{value}]"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ a", "template line 1, character 1: expected '}}', found end of file"),
        ("one\n{{ a b }}", "template line 2, character 6: expected end of expression, found word"),
        ("{% include 'x' %}", "template line 1, character 4: unexpected tag 'include'"),
        ("{% render 'x' %}", "template line 1, character 4: unexpected tag 'render'"),
        (
            "{{ a | upcas }}",
            "template line 1, character 8: unknown filter 'upcas'; did you mean 'upcase'?",
        ),
        ("{% for x in y %}", "expected tag endfor, found end of expression"),
        ("x" * 20_001, "a template has at most 20000 characters, not 20001"),
        ("\0", "holds a NUL character, which cannot be stored"),
        ("{{ " + "a[" * 3000 + "]" * 3000 + "}}", "unexpected liquid parsing error"),
        (
            "{% if a %}" * 21 + "{% endif %}" * 21,
            (
                "template line 1, character 214: the template does too much: "
                "block nesting limit reached"
            ),
        ),
    ],
)
def test_refused_at_parse(source: str, message: str) -> None:
    """A template that cannot work is refused before any recipient, with its place."""
    with pytest.raises(BadInputError) as caught:
        templates.parse(source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("{{ colour }}", {}, "column 'colour' is missing"),
        (
            '{{ ["First Name"] }}',
            {},
            "column 'First Name' is missing",
        ),
        (
            "{{ address.city }}",
            {"address": {}},
            "column 'address': address.city is undefined",
        ),
        (
            "{{ a | divided_by: 0 }}",
            {"a": 1},
            "template line 1, character 8: divided_by: can't divide by 0",
        ),
        (
            "{{ a | base64_decode }}",
            {"a": "/w=="},
            (
                "a filter cannot take this value: 'utf-8' codec can't decode byte 0xff in "
                "position 0: invalid start byte"
            ),
        ),
    ],
)
def test_refused_at_render(source: str, row: dict[str, object], message: str) -> None:
    """A row that a template cannot take is refused, naming the column or the filter."""
    with pytest.raises(BadInputError) as caught:
        render(source, **row)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in (1..2000) %}x{% endfor %}",
        "{% for i in (1..99999999999999999999) %}x{% endfor %}",
        "{% for i in (1..50) %}{% for j in (1..50) %}x{% endfor %}{% endfor %}",
        "{{ (1..1000000000) | join: ',' }}",
        "{% assign a = 'aaaaaaaaaa' %}" + REPEATED * 40,
        "{% assign a = 'aaaaaaaaaa' %}{{ a" + "| replace: '', a" * 20 + "}}",
        "{% assign a = 9 %}" + "{% assign a = a | times: a %}" * 60 + "{{ a }}",
        "{% assign a = 'aaaa' | split: '' %}" + "{% assign a = a | concat: a %}" * 40 + "{{ a }}",
        "{% for i in (1..1000) %}{{ text }}{% endfor %}",
    ],
)
def test_a_template_cannot_eat_the_machine(source: str) -> None:
    """Loops, output, variables and filters that multiply text all end at a limit."""
    with pytest.raises(BadInputError):
        render(source, text="x" * 1000)


def test_columns() -> None:
    """A template knows its columns, and which of them must be there."""
    template = templates.parse(
        '{{ a }}{{ b | default: "x" }}{{ c | upcase | default: "x" }}'
        '{{ ["First Name"] | default: d | default: "x" }}{% if e %}{{ b.size }}{% endif %}'
        '{% assign f = g | default: "" %}{{ f }}'
        "{% for h in i %}{{ h }}{{ forloop.index }}{% endfor %}"
    )
    assert template.columns == {"a", "b", "c", "d", "e", "g", "i", "First Name"}
    assert template.required == {"a", "b", "c", "e", "i"}
