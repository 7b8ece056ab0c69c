"""Parcels hold every object of a content, bit by bit, and nothing that is no parcel passes for one."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given
from hypothesis import strategies as st

from permmoe.federated.parcel import (
    PARCEL_BYTES,
    TooManyParts,
    in_bodies,
    joined,
    object_name,
    pack,
    separated,
    shared_parcels,
    unpack,
)


def content(numbers: int) -> RecordDict:
    array = Array(np.random.default_rng(3).standard_normal(numbers).astype(np.float32))
    return RecordDict({"a": ArrayRecord({"x": array}), "b": ConfigRecord({"t": "ü", "b": b"\0"}), "c": MetricRecord()})


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_what_is_joined_is_separated_again(parts: list[bytes]) -> None:
    assert separated(joined(parts)) == parts


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=8), st.data())
def test_a_body_that_was_cut_is_refused_or_is_shorter_by_whole_parts(parts: list[bytes], data: st.DataObject) -> None:
    whole = joined(parts)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        found = separated(cut)
    except ValueError:
        return
    assert found == parts[: len(found)] and len(found) < len(parts)


@given(st.binary(max_size=100))
def test_whatever_bytes_come_are_parts_that_give_these_bytes_or_are_refused(data: bytes) -> None:
    try:
        assert joined(separated(data)) == data
    except ValueError:
        return


def test_more_parts_than_an_honest_body_has_are_refused_before_they_are_made() -> None:
    with pytest.raises(TooManyParts):
        separated(bytes(8 * 1000), most=999)
    assert len(separated(bytes(8 * 1000), most=1000)) == 1000
    parcels = [ArrayChunk(memoryview(joined([bytes([i]), b"x"]))).deflate() for i in range(3)]
    with pytest.raises(TooManyParts):
        unpack(parcels, 3)
    assert len(unpack(parcels, 6)) == 4


@pytest.mark.parametrize("numbers", [0, 7, 3 * PARCEL_BYTES // 4 + 1])
def test_a_content_comes_out_of_its_parcels_as_it_went_in(numbers: int) -> None:
    sent = content(numbers)
    parcels = pack(sent)
    objects = unpack(parcels.values(), 1000)
    assert objects == {name: thing.deflate() for name, thing in get_all_nested_objects(sent).items()}
    found = inflate_object_from_contents(sent.object_id, dict(objects))
    assert isinstance(found, RecordDict) and found.object_id == sent.object_id
    assert all(name == object_name(parcel) for name, parcel in parcels.items())
    # An object that fills a parcel alone is of 5 MiB at most.
    assert len(parcels) == max(1, -(-4 * numbers // (5 << 20))) and max(map(len, parcels.values())) < 10 << 20


def test_equal_contents_have_equal_parcels_so_that_a_superlink_keeps_them_once() -> None:
    assert pack(content(50)) == pack(content(50)) and pack(content(50)).keys() != pack(content(51)).keys()


def test_a_record_that_many_contents_share_is_written_once() -> None:
    common = content(1000)["a"]
    contents = [RecordDict({"all": common, "own": ConfigRecord({"n": i})}) for i in range(5)]
    shared = shared_parcels([*contents, RecordDict({"alone": ConfigRecord({"n": 9})})])
    assert list(shared) == [id(common)]
    packed = [pack(one, shared) for one in contents]
    assert len({name for parcels in packed for name in parcels}) == 1 + 5
    for one, parcels in zip(contents, packed, strict=True):
        assert unpack(parcels.values(), 100) == unpack(pack(one).values(), 100)


def test_what_is_no_parcel_is_refused() -> None:
    for other in (b"", b"<html>", ConfigRecord({"a": 1}).deflate(), ArrayChunk(memoryview(b"\xff" * 9)).deflate()):
        with pytest.raises(ValueError):
            unpack([other], 10)


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 100))
def test_bodies_keep_every_part_in_order_and_are_closed_once_they_are_full(parts: list[bytes], most: int) -> None:
    groups = list(in_bodies(parts, most))
    assert [part for group in groups for part in group] == parts
    assert all(sum(map(len, group[:-1])) < most for group in groups)
    assert all(sum(map(len, group)) >= most for group in groups[:-1])
