"""Spans, batches and refusals, without any store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation_coordinator.store.base import (
    BATCH_BYTES_MAX,
    BATCH_OPERATIONS_MAX,
    REQUEST_BYTES_MAX,
    Delete,
    Operation,
    Put,
    Span,
    TooLarge,
    check,
    operation_bytes,
    split,
)

KEYS = st.text(alphabet="ab/z", min_size=1, max_size=6)


@given(prefix=KEYS, key=KEYS)
def test_a_prefix_span_holds_exactly_the_keys_with_that_prefix(prefix: str, key: str) -> None:
    assert (key in Span.prefix(prefix)) == key.startswith(prefix)
    assert key in Span.prefix("")


def test_a_span_without_end_reaches_to_the_end() -> None:
    assert "zzz" in Span("audit0", "")
    assert "audit/1" not in Span("audit0", "")
    assert "audit/1" not in Span("", "audit/")


OPERATIONS = st.lists(
    st.one_of(
        st.builds(Put, st.just("k"), st.integers(0, 700_000).map(bytes)),
        st.just(Delete("k")),
    ),
    max_size=12,
)


@given(operations=OPERATIONS)
def test_split_keeps_everything_in_order_within_the_limits(operations: list[Operation]) -> None:
    batches = list(split(operations))
    assert [item for batch in batches for item in batch] == operations
    for batch in batches:
        assert sum(map(operation_bytes, batch)) <= BATCH_BYTES_MAX


def test_split_leaves_one_operation_for_a_fence() -> None:
    sizes = [len(batch) for batch in split([Put(f"k{n}", b"") for n in range(300)])]
    assert sizes == [BATCH_OPERATIONS_MAX, BATCH_OPERATIONS_MAX, 300 - 2 * BATCH_OPERATIONS_MAX]
    assert list(split([])) == []


def test_split_gives_a_value_that_fits_nowhere_a_batch_of_its_own() -> None:
    large = Put("large", bytes(BATCH_BYTES_MAX + 1))
    assert list(split([Put("a", b""), large, Put("b", b"")])) == [
        (Put("a", b""),),
        (large,),
        (Put("b", b""),),
    ]


def test_a_refusal_names_the_largest_value_and_how_many_went_with_it() -> None:
    with pytest.raises(TooLarge, match="releases/shop/3 with 1 more is"):
        check([], [Put("apps/shop", b"x"), Put("releases/shop/3", bytes(REQUEST_BYTES_MAX))])
