"""The console in a real Chromium, against a service with a scripted model."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.api.tests.console.hostile_texts import HOSTILE
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness
from apps.models.scripted import ScriptedModel, Step, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, serving_agents
from apps.tests.support.browser import Browser, Page, needs_chromium
from apps.tests.support.keys import make_keys
from apps.tests.support.rag_serving import rag_app
from apps.tests.support.serving import serving, serving_models, settings

pytestmark = [needs_chromium, pytest.mark.long]

LONG = "A paragraph of the answer, which goes on.\n\n" * 6000
FENCED = "```python\n" + "print('a line of code')\n" * 600 + "```\n\nAfter the *code*."

GROWING = """A *first* paragraph
of two lines, with [a link](https://example.org/).

Heading by underlining
======================

- one

- two, loosely
  - inner

1. loosely, too

1. and numbered alike

12. with two digits

A paragraph, and a year behind it:

2026

1. first
2. second

```python
def area(width):

    return width
```

| a | b |
|---|---|
| 1 | 2 |

> a quotation
> of two lines

The end, **strong** and `code`."""

ODD_MARKDOWN = [
    "Entities: &amp; &lt;b&gt; &copy; &#39; &nbsp; & AT&T \"quoted\" 'so' a < b > c",
    "`a < b && c` and **bold *and slanted* `code`** ~~gone~~ \\* \\<",
    '[titled](https://example.org/?a=1&b=2 "a \\"title\\" & more") <https://example.org/> mail@example.org www.a.org',
    "[relative](/docs) [anchor](#here) [script](javascript:alert) [spaced](<https://example.org/a b>) [](https://a.org)",
    "![an image](https://example.org/a.png) beside",
    "- [ ] to do\n- [x] done",
    "3. three\n4. four\n   > quoted\n\n   ```\n   code\n   ```",
    "| left | right | middle |\n|:--|--:|:-:|\n| `a` | **b** | c \\| d |\n| only |",
    '```js\n\nif (a < b && c > d) { return "&amp;"; }\n```',
    "    indented code\n\n    goes on",
    "one  \ntwo\nthree\\\nfour",
    "# One #\n## Two\n\nThree\n---\n***\n#### Four `code`",
    "> a\n> > b\n> - c",
    "H<sub>2</sub>O and <b>bold</b><br>line <!-- remark --> <span>span</span>",
    "<details><summary>more</summary>\n\n*text*\n\n</details>",
    "nul \u0000 and carriage\rreturn, tab\tand \u202e turned",
]


async def ask(page: Page, prompt: str) -> None:
    await page.wait_for("!!document.querySelector('#send:enabled')")
    await page.type_into("#message", prompt)
    await page.click("#send")


async def test_an_answer_streams_with_its_receipt_and_is_kept(browser: Browser) -> None:
    model = ScriptedModel(saying("Hello **wor", "ld**."), name="scripted")
    with serving_models(local=model) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await ask(page, "Say hello")
            receipt = await page.wait_for("(document.querySelector('.receipt') || {}).innerText")
            assert await page.run("document.querySelector('.answer strong').innerText") == "world"
            assert "scripted" in receipt and "first token" in receipt
            await page.wait_for("!!document.querySelector('.past .link')")
            await page.call("Page.reload")
            await page.click(".past .link")
            await page.wait_for("!!document.querySelector('.answer strong')")
            outside = [asked for asked in page.requested if not asked.startswith((url, "data:", "blob:"))]
            assert (outside, page.errors) == ([], [])


async def test_stop_ends_the_answer_on_the_server_too(browser: Browser) -> None:
    def endless(request: ChatRequest) -> Sequence[Step]:
        return [step for _ in range(2000) for step in (Delta("word ", model="scripted"), 0.05)]

    model = ScriptedModel(endless, name="scripted")
    with serving_models(local=model) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await ask(page, "Go on for ever")
            await page.wait_for("(document.querySelector('.answer') || {innerText: ''}).innerText.includes('word')")
            assert model.open == 1
            await page.click("#stop")
            async with asyncio.timeout(60):
                # the model is another thread's: there is nothing of ours to wait on
                while model.open:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await page.wait_for("!!document.querySelector('#send')")
            assert "stopped" in await page.wait_for("document.querySelector('.receipt').innerText")


async def test_a_long_answer_leaves_the_page_at_its_beginning_and_code_stays_code(browser: Browser) -> None:
    turns = iter([LONG, FENCED])
    model = ScriptedModel(lambda request: saying(*_cut(next(turns), 1000))(request), name="scripted")
    with serving_models(local=model) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await ask(page, "Write a book")
            await page.wait_for("document.querySelectorAll('.receipt').length === 1")
            shown = await page.run("document.querySelector('.markdown').textContent.length")
            assert 100_000 < shown < 220_000 < len(LONG)
            assert "characters are not shown here" in await page.run("document.querySelector('.answer').innerText")
            await page.click("[aria-label=Conversations] .second")
            await ask(page, "Write code")
            await page.wait_for("document.querySelectorAll('.receipt').length === 1")
            code = await page.run(
                "[...document.querySelectorAll('.markdown pre')].map((one) => one.textContent).join('')"
            )
            assert code.count("print('a line of code')") == 600
            assert await page.run("document.querySelector('.markdown em').innerText") == "code"
            assert page.errors == []


async def test_markdown_that_grows_is_what_it_would_be_whole(browser: Browser) -> None:
    """In pieces of any size: blocks that end late, fences, loose lists, a table, a heading by underlining."""
    write = (
        "(pieces) => import('/console/static/markdown.js').then(({MarkdownWriter}) => {"
        " const place = document.createElement('div'); const writer = new MarkdownWriter(place);"
        " for (const piece of pieces) writer.append(piece);"
        " const blocks = [...place.querySelectorAll('.block')].map((one) => one.innerHTML).join('');"
        " return [[...new Set(Array.from(place.querySelectorAll('.block *'), (one) => one.tagName))], blocks]; })"
    )
    with serving_models(local=ScriptedModel(saying("hello"))) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await page.wait_for("!!document.querySelector('#send')")
            whole = await page.run(f"({write})({json.dumps([GROWING])})")
            assert {"PRE", "LI", "TABLE", "EM", "H1", "BLOCKQUOTE", "A"} <= set(whole[0])
            for size in (1, 2, 3, 7, 50, 1000):
                assert await page.run(f"({write})({json.dumps(_cut(GROWING, size))})") == whole, size
            assert page.errors == []


async def test_what_a_stream_ends_with_is_read_where_it_is_whole(browser: Browser) -> None:
    async def echo(request: Request) -> Response:
        return Response(bytes.fromhex((await request.json())["hex"]), media_type="text/event-stream")

    read = (
        "(bodies) => import('/console/static/api.js').then(({stream}) => Promise.all(bodies.map(async (hex) => {"
        " const events = []; await stream('/echo', {hex}, {onEvent: (...event) => events.push(event)});"
        " return events; })))"
    )
    ends = {
        "data: a\n\nevent: done\ndata: {}\n\n": [["message", "a"], ["done", "{}"]],
        "data: a\r\revent: done\rdata: {}\r\r": [["message", "a"], ["done", "{}"]],
        "data: a\r\n\r\ndata: b\r\n\r": [["message", "a"], ["message", "b"]],
        # half an event is none: the answer was cut off there, and is said to be
        "data: a\n\ndata: b\n": [["message", "a"]],
        'data: a\n\ndata: {"b': [["message", "a"]],
        "data: a\n\n: receipt {": [["message", "a"]],
    }
    bodies = [*(text.encode() for text in ends), "data: é".encode()[:-1]]
    configured, model = settings(auth="off"), ScriptedModel(saying("hello"))
    app = create_app(configured, on_record(configured, model, model, build_gateway(configured, model, None)))
    app.add_route("/echo", echo, methods=["POST"])
    with serving(app) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await page.wait_for("!!document.querySelector('#send')")
            events = await page.run(f"({read})({json.dumps([body.hex() for body in bodies])})")
            assert events == [*ends.values(), []]
            assert page.errors == []


async def test_markdown_is_what_the_sanitizer_leaves_of_it(browser: Browser) -> None:
    """Whether it is built node by node or sanitized; and what grows keeps the nodes that it begins with."""
    compare = (
        "(texts) => Promise.all(['/console/static/markdown.js', 'marked', 'dompurify'].map((one) => import(one)))"
        ".then(([{MarkdownWriter}, {marked}, {default: sanitizer}]) => texts.map((text) => {"
        " const place = document.createElement('div'); const expected = document.createElement('div');"
        " new MarkdownWriter(place).append(text); expected.append(sanitizer.sanitize(marked.parse(text)));"
        " return [Array.from(place.querySelectorAll('.block'), (one) => one.innerHTML).join(''), expected.innerHTML];"
        " }).filter(([found, expected]) => found !== expected))"
    )
    keeps = (
        "import('/console/static/markdown.js').then(({MarkdownWriter}) => {"
        " const place = document.createElement('div'); const writer = new MarkdownWriter(place);"
        " writer.append('A **first** wo'); const [, strong, text] = place.querySelector('p').childNodes;"
        " writer.append('rd\\n\\nNext');"
        " return [strong, text].map((one) => place.contains(one) && one.textContent); })"
    )
    with serving_models(local=ScriptedModel(saying("hello"))) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await page.wait_for("!!document.querySelector('#send')")
            # references reach no further than their block, and a block no further than some thousand characters
            hostile = [text for text in HOSTILE if len(text) < 4000 and "]: " not in text]
            texts = [*ODD_MARKDOWN, *hostile]
            assert await page.run(f"({compare})({json.dumps(texts)})") == []
            assert await page.run(keeps) == ["first", " word"]
            assert page.errors == []


async def test_two_models_are_compared(browser: Browser) -> None:
    with serving_agents({"calculator": agent("calculator")}, ScriptedModel(saying("Four."))) as url:
        async with browser.tab(f"{url}/#/compare") as page:
            await page.wait_for("document.querySelectorAll('.check input').length >= 2")
            await page.run("document.querySelectorAll('.check input:not(:checked)').forEach((box) => box.click())")
            await page.type_into("#prompt", "What is 2 + 2?")
            await page.click("#ask")
            await page.wait_for("document.querySelectorAll('.columns article').length >= 2")
            await page.wait_for("document.body.innerText.includes('Differences')")
            told = "import('/console/pages/compare.js').then(({differences}) => differences('a b c', 'a x c d'))"
            assert await page.run(told) == [["same", "a"], ["del", "b"], ["ins", "x"], ["same", "c"], ["ins", "d"]]


class Loading(ScriptedModel):
    """A model that says how far it is."""

    now = Readiness("big", "loading", "Not started yet")

    def readiness(self) -> Readiness:
        return self.now


async def test_the_start_shows_what_loads_and_then_what_to_try(browser: Browser) -> None:
    model = Loading(saying("hello"))
    step = "Still downloading a/big: 0.31 of 2.20 GB (14%), 5.2 MB/s, 363 s left"
    model.now = Readiness("big", "loading", step)
    with serving_models(cloud=model, local=model) as url:
        async with browser.tab(f"{url}/#/start") as page:
            loading = "document.querySelector('.model:has(progress)')"
            await page.wait_for(f"{loading}?.innerText.includes({json.dumps(step)})")
            assert await page.run("document.querySelector('progress').position") == -1
            share = {"seconds_left": 363.0, "loaded_bytes": 308_000_000, "total_bytes": 2_200_000_000}
            model.now = Readiness("big", "loading", step, share)
            assert await page.wait_for("Math.max(0, document.querySelector('progress').position)") == 0.14
            shown = await page.run(f"{loading}.innerText")
            assert "6.1 min" in shown and "308 MB of 2.2 GB" in shown
            model.now = Readiness("big", "ready", "Loaded in 9.1 s")
            await page.wait_for("document.querySelector('.lead').innerText.includes('big is ready to answer')")
            assert await page.run("document.querySelectorAll('progress').length") == 0
            links = await page.run("[...document.querySelectorAll('.next')].map((one) => one.getAttribute('href'))")
            assert links == ["#/chat", "#/documents", "#/compare"]


async def test_files_are_dropped_in_and_what_cannot_be_read_is_named(browser: Browser, tmp_path: Path) -> None:
    app, _ = rag_app(tmp_path / "data", ScriptedModel(saying("x")))
    drop = r"""(() => { const files = new DataTransfer();
      files.items.add(new File(["# Leave\n\nEverybody has 30 days."], "leave.md"));
      files.items.add(new File(["%PDF-1.7 and nothing"], "broken.pdf"));
      document.querySelector(".drop").dispatchEvent(
        new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true})); })()"""
    with serving(app) as url:
        async with browser.tab(f"{url}/#/documents") as page:
            await page.wait_for("!!document.querySelector('.drop')")
            await page.run(drop)
            await page.wait_for("!!document.querySelector('.job .state.bad, .job .state.good')")
            job = await page.run("document.querySelector('.job').innerText")
            assert "leave.md: done" in job
            assert "broken.pdf: failed (" in job
            await page.click("[aria-label='Delete leave.md']")
            await page.wait_for("!document.querySelector('[aria-label=Documents]')")
            await page.type_into(".field select", "shared")
            await page.wait_for("document.body.innerText.includes('No document yet.')")
            assert page.errors == []


async def test_a_document_goes_in_and_its_citation_opens(browser: Browser, tmp_path: Path) -> None:
    app, _ = rag_app(tmp_path / "data", ScriptedModel(saying("There are 30 days [1].")))
    with serving(app) as url:
        async with browser.tab(f"{url}/#/documents") as page:
            await page.upload("#files", "leave.md", b"# Leave\n\nEverybody has 30 days of leave. Ask early.")
            await page.wait_for("document.body.innerText.includes('leave.md: done')")
            await page.type_into("#question", "How many days of leave are there?")
            await page.click("#question-form button")
            await page.click(".citation")
            await page.wait_for("document.querySelector('#cited').innerText.includes('30 days')")


async def test_an_approval_is_given(browser: Browser) -> None:
    script = in_turns(calling(("calculator", {"expression": "2 + 3"})), saying("It is 5."))
    declared = {"careful": agent("calculator", approval=["calculator"])}
    with serving_agents(declared, ScriptedModel(script)) as url:
        async with browser.tab(f"{url}/#/agents") as page:
            await page.type_into("#task", "What is 2 + 3?")
            await page.click("#run")
            await page.click(".approve")
            await page.wait_for("document.body.innerText.includes('It is 5.')")


async def test_a_run_is_denied_with_a_reason_and_another_one_cancelled(browser: Browser) -> None:
    script = in_turns(calling(("calculator", {"expression": "2 + 3"})), saying("As you like."))
    declared = {"careful": agent("calculator", approval=["calculator"])}
    model = ScriptedModel(script)
    with serving_agents(declared, model) as url:
        async with browser.tab(f"{url}/#/agents") as page:
            for _ in range(2):
                await page.type_into("#task", "What is 2 + 3?")
                await page.click("#run")
                await page.wait_for("document.querySelector('.run h2')?.innerText.includes('paused')")
            await page.wait_for("document.querySelectorAll('.waiting-run').length === 2")
            await page.type_into(".waiting-run .reason", "not today")
            await page.click(".deny")
            await page.wait_for("document.querySelectorAll('.waiting-run').length === 1")
            assert "not today" in str(model.requests[-1].messages[-1].content)
            await page.click(".waiting-run .link")
            await page.wait_for("document.querySelectorAll('.waiting-run').length === 0")
            runs = await page.run("document.querySelector('[aria-label=Runs] tbody').innerText")
            assert "cancelled" in runs and "As you like." in runs


async def test_a_key_sees_the_pages_that_it_reaches(browser: Browser, tmp_path: Path) -> None:
    configured = settings(data_dir=tmp_path, auth="on")
    keys = await asyncio.to_thread(make_keys, configured, {"routes": ["/v1/*"]}, {"name": "operator", "admin": True})
    with serving_models(data_dir=tmp_path, auth="on", secret_key=configured.secret_key) as url:
        async with browser.tab(f"{url}/#/keys") as page:
            for key, pages in zip(keys, ({"Start", "Chat", "Compare", "Usage", "Routing", "Live"}, None), strict=True):
                await page.type_into("#key", key)
                await page.click(".signin button")
                await page.wait_for("document.querySelectorAll('nav a').length > 0")
                shown = set(await page.run("[...document.querySelectorAll('nav a')].map((one) => one.innerText)"))
                assert shown == pages or (pages is None and {"Keys", "Documents", "Agents"} < shown)
                # an address that the key does not reach shows the start, not a page full of refusals
                heading = "genai-project" if pages else "Keys"
                await page.wait_for(f"document.querySelector('h1').innerText === {json.dumps(heading)}")
                await page.click(".who .link")
                await page.wait_for("!!document.querySelector('#key')")
            assert await page.run("document.cookie") == ""


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]
