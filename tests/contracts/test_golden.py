"""The messages as others rely on them: neither bytes nor schema change by accident."""

import json

import jsonschema
import msgspec
import pytest

from contracts.message import Message, encode
from tests.contracts.golden import FOLDER, messages, schema

KINDS = [pytest.param(kind, id=tag) for tag, kind in messages().items()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_comes_back_to_the_same_bytes(kind: type[Message]):
    written = (FOLDER / f"{kind.__struct_config__.tag}.example.json").read_bytes()
    message = msgspec.json.decode(written, type=kind)
    assert msgspec.json.format(encode(message), indent=2) + b"\n" == written


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_the_messages_own_and_the_example_fits_it(kind: type[Message]):
    committed = (FOLDER / f"{kind.__struct_config__.tag}.schema.json").read_bytes()
    assert committed == schema(kind), "the message changed: `make golden`, and a line in CHANGELOG.md under Contracts"
    example = json.loads((FOLDER / f"{kind.__struct_config__.tag}.example.json").read_bytes())
    jsonschema.validate(example, json.loads(committed))


def test_no_golden_file_is_left_of_a_message_that_is_gone():
    assert {file.name.split(".v")[0] for file in FOLDER.glob("*.json")} == {tag.split(".v")[0] for tag in messages()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_says_who_sends_it_and_who_receives_it(kind: type[Message]):
    text = (kind.__doc__ or "").lower()
    assert "sent by" in text or "written" in text or "answer" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_ignores_what_a_newer_sender_adds_unless_people_write_the_message(kind: type[Message]):
    example = json.loads((FOLDER / f"{kind.__struct_config__.tag}.example.json").read_bytes()) | {"added_later": 1}
    if kind.__struct_config__.forbid_unknown_fields:
        with pytest.raises(msgspec.ValidationError, match="added_later"):
            msgspec.json.decode(json.dumps(example).encode(), type=kind)
    else:
        msgspec.json.decode(json.dumps(example).encode(), type=kind)
