"""E-mail: its head, its text and its attachments. EML by the standard library, Outlook's messages by kreuzberg."""

import email
import email.policy
import io
from collections.abc import Iterator
from email.message import EmailMessage, MIMEPart
from typing import BinaryIO, cast

from apps.core.errors import AppError
from apps.rag.parsing.formats import sections_of, unreadable
from apps.rag.parsing.html_page import page_sections
from apps.rag.parsing.office import extracted, structure_sections
from apps.rag.parsing.sections import Reading, Section
from apps.rag.parsing.text_encoding import decoded
from apps.rag.records import plain_name

HEAD = ("Subject", "From", "To", "Cc", "Date")
DEEPEST = 5
MOST_PARTS = 1000


def sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    message = email.message_from_binary_file(file, policy=email.policy.default)
    if not message.keys():
        raise unreadable("It is no e-mail: it has no header")
    yield from _message(message, reading, 0)


def msg_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    result = extracted(file.read(), "application/vnd.ms-outlook")
    yield from structure_sections(result.document["nodes"] if result.document else [])
    read = {child["path"] for child in result.children or []}
    for child in result.children or []:
        yield Section(f"Attachment: {child['path']}\n\n{child['result'].content}", headings=(child["path"],))
    for name in result.metadata.get("attachments", []):
        if name not in read:
            reading.warn(f"An attachment was not read: {name}")


def _message(message: MIMEPart, reading: Reading, depth: int) -> Iterator[Section]:
    head = [f"{name}: {value}" for name in HEAD if (value := _header(message, name))]
    yield Section("\n".join(head))
    if depth >= DEEPEST:
        reading.warn(f"Messages that are attached more than {DEEPEST} deep were not read")
        return
    body = message.get_body(("plain", "html"))
    # an alternative text may be a line that says "use another program": the longer one is read
    texts = [_text(part, reading) for part in {id(part): part for part in (body, message.get_body(("html",)))}.values()]
    yield from max(texts, key=lambda found: sum(len(one.text) for one in found), default=[])
    for number, part in enumerate(message.iter_attachments()):
        if number >= MOST_PARTS:
            reading.warn(f"Of its attachments {MOST_PARTS} were read")
            return
        yield from _attachment(part, reading, depth)


def _header(message: MIMEPart, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except (ValueError, IndexError, LookupError):
        # the standard library's own parser of headers fails at some that people send
        return ""


def _text(part: MIMEPart | None, reading: Reading) -> list[Section]:
    if part is None:
        return []
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    text = _decoded(part, data, reading)
    if part.get_content_type() == "text/html":
        return page_sections(text, reading)
    return [Section(text.strip())] if text.strip() else []


def _decoded(part: MIMEPart, data: bytes, reading: Reading) -> str:
    charset = part.get_content_charset()
    try:
        return data.decode(charset or "utf-8").replace("\r\n", "\n")
    except (UnicodeDecodeError, LookupError):
        return decoded(data, reading.warn, declares=part.get_content_type() == "text/html")


def _attachment(part: MIMEPart, reading: Reading, depth: int) -> Iterator[Section]:
    name = plain_name(part.get_filename() or "")
    if part.get_content_type() == "message/rfc822":
        for inner in part.iter_parts() if part.is_multipart() else []:
            yield from _message(cast(EmailMessage, inner), reading, depth + 1)
        return
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes) or not payload:
        return
    shown = name or part.get_content_type()
    if part.get_content_maintype() == "image" and part.get_content_disposition() != "attachment":
        reading.warn(f"A picture in the text was not read: {shown}")
        return
    if depth + 1 >= DEEPEST:
        reading.warn(f"An attachment was not read: {shown}")
        return
    try:
        _, found = sections_of(io.BytesIO(payload), name, reading)
        for section in found:
            yield Section(section.text, None, (shown, *section.headings), section.markdown)
    except AppError as error:
        reading.warn(f"The attachment {shown} was not read. {error.message}")
