"""How long outputs are likely to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.lengths import ENOUGH, MAX_TEMPLATES, Lengths, template_of
from tests.server.session.programs import Program


def seen(*tokens: int, template: bytes = b"t", tenant: str = "a") -> Lengths:
    lengths = Lengths()
    for number in tokens:
        lengths.observe(tenant, template, number)
    return lengths


def test_a_template_is_judged_by_its_own_outputs() -> None:
    lengths = seen(20, 20, 20, 21)
    assert lengths.expected("a", b"t", 500) == 20
    assert 20 <= lengths.at_most("a", b"t", 500) <= 23
    assert lengths.expected("a", b"t", 8) == 8


def test_one_that_is_new_is_judged_by_its_tenant_and_a_new_tenant_by_max_tokens() -> None:
    lengths = seen(20, 20, 20)
    assert lengths.expected("a", b"other", 500) == 20
    assert lengths.expected("b", b"t2", 500) == 500
    assert seen(*[20] * (ENOUGH - 1)).expected("a", b"t", 500) == 500


def test_outputs_of_long_ago_count_less() -> None:
    lengths = seen(*[400] * 50, *[10] * 150)
    assert lengths.expected("a", b"t", 500) < 40
    assert lengths.at_most("a", b"t", 500) < 20


def test_switched_off_it_learns_nothing() -> None:
    lengths = Lengths(off=True)
    for _ in range(10):
        lengths.observe("a", b"t", 3)
    assert lengths.expected("a", b"t", 500) == lengths.at_most("a", b"t", 500) == 500


def test_the_memory_is_bounded() -> None:
    lengths = Lengths()
    for number in range(MAX_TEMPLATES + 50):
        lengths.observe("a", number.to_bytes(4, "big"), 1)
    assert len(lengths) == MAX_TEMPLATES
    assert lengths.expected("a", b"new", 500) == 1, "the tenant is in use all the time"


def test_templates_are_told_apart_by_text_place_and_tenant_and_not_by_what_they_are_bound_to() -> None:
    program = Program()
    program.submit("A {{input:x}} {{output:y}} B {{output:z}}", variables={"x": "1"})
    program.submit("A {{input:x}} {{output:y2}}".replace("y2", "other"))
    one, two, three = program.session.graph.tasks.values()
    names = {template_of("a", task) for task in (one, two, three)} | {template_of("b", one)}
    assert len(names) == 4
    again = Program()
    again.submit("A {{input:x}} {{output:y}} B {{output:z}}", variables={"x": "2"})
    assert template_of("a", next(iter(again.session.graph.tasks.values()))) == template_of("a", one)


@given(st.lists(st.integers(1, 100_000), min_size=ENOUGH, max_size=40), st.integers(1, 4096))
def test_estimates_are_within_what_was_asked_for(tokens: list[int], max_tokens: int) -> None:
    lengths = seen(*tokens)
    for estimate in (lengths.expected("a", b"t", max_tokens), lengths.at_most("a", b"t", max_tokens)):
        assert 1 <= estimate <= max_tokens
    assert lengths.at_most("a", b"t", 10**9) <= 1.5 * max(tokens) + 1
