"""Documents of kinds that people upload, parsed alone: their words stand in a passage each, and no others do."""

from pathlib import Path

import pytest

from apps.core.errors import InvalidValue
from apps.tests.support.document_cases import DocumentCase, document_cases
from apps.tests.support.parsing import Parser, read

pytestmark = pytest.mark.local


@pytest.mark.parametrize("case", document_cases(), ids=lambda case: case.name)
async def test_a_document_is_parsed_to_its_words_and_their_headings(
    parser: Parser, tmp_path: Path, case: DocumentCase
) -> None:
    if case.error:
        with pytest.raises(InvalidValue, match=r"There is no text in it|empty"):
            await read(parser, tmp_path, case.name, case.content)
        return
    chunks, done = await read(parser, tmp_path, case.name, case.content)
    texts = [chunk["text"] for chunk in chunks]
    assert not [word for word in case.has if not any(word in text for text in texts)]
    assert not [word for word in case.never if any(word in text for text in texts)]
    for word, headings in case.headings.items():
        assert [tuple(chunk["headings"]) for chunk in chunks if word in chunk["text"]] == [headings]
    assert {name: done["metadata"].get(name) for name in case.metadata} == dict(case.metadata)
    assert all(any(told in text for text in texts) for told in case.answers.values())
