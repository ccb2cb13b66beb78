"""A hundred hostile answers and document texts: no request leaves, no dialog opens, no script runs, the page lives."""

import json
from pathlib import Path

import pytest

from apps.api.tests.console.hostile_texts import HOSTILE
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, serving_agents
from apps.tests.support.browser import Browser, Page, needs_chromium
from apps.tests.support.rag_serving import rag_app
from apps.tests.support.serving import serving, serving_models

pytestmark = [needs_chromium, pytest.mark.long]

UNSAFE = (
    "script, img, iframe, object, embed, link, style, form, input, svg, math, video, audio, base, meta, [style],"
    " [id]:not(#cited)"
)
HANDLED = (
    "[...document.querySelectorAll('main *')].filter((one) => one.getAttributeNames().some((name) => /^on/.test(name)))"
)
SHORT = [text for text in HOSTILE if len(text) < 10_000]
PIECE = 7


def test_there_are_a_hundred_of_them() -> None:
    assert len(set(HOSTILE)) >= 100


async def harmless(page: Page, url: str) -> None:
    """Looks at the page as it is now."""
    assert await page.run("window.pwned") is None
    assert await page.run(f"document.querySelectorAll('.markdown :is({UNSAFE}), .plain :is({UNSAFE})').length") == 0
    assert await page.run(f"{HANDLED}.length") == 0
    links = await page.run("[...document.querySelectorAll('.markdown a[href]')].map((link) => link.protocol)")
    assert set(links) <= {"http:", "https:"}
    assert await page.run("[...document.querySelectorAll('.markdown a')].every((one) => one.target === '_blank')")
    assert [asked for asked in page.requested if not asked.startswith((url, "data:", "blob:"))] == []
    assert (page.dialogs, page.errors) == ([], [])
    await page.run("location.hash = '#/start'")
    await page.wait_for("document.querySelector('h1').innerText === 'genai-project'")


async def test_kept_answers(browser: Browser) -> None:
    """Each of them is a turn of one conversation, which is opened."""
    turns = [{"prompt": text[:5000], "answer": {"text": text, "receipt": {"seconds": 1}}} for text in HOSTILE]
    kept = {"id": "1", "at": 1, "title": HOSTILE[0], "model": "local", "parameters": {}, "turns": turns}
    with serving_models(local=ScriptedModel(saying("Still here."), name="scripted")) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await page.wait_for("!!document.querySelector('#send:enabled')")
            await page.run(f"import('/console/static/history.js').then((history) => history.keep({json.dumps(kept)}))")
            await page.call("Page.reload")
            await page.click(".past .link")
            await page.wait_for(f"document.querySelectorAll('.turn').length === {len(turns)}")
            await page.run("window.scrollTo(0, 0)")
            assert await page.run("document.querySelectorAll('.turn:nth-child(2) .markdown').length") == 1
            await harmless(page, url)


async def test_answers_that_stream_in_small_pieces(browser: Browser) -> None:
    """A tag that has come by half is no tag either; afterwards the page takes the next question."""
    whole = "\n\n".join(SHORT)
    turns = iter([[whole[at : at + PIECE] for at in range(0, len(whole), PIECE)], [HOSTILE[-1]], ["Still here."]])
    model = ScriptedModel(lambda request: saying(*next(turns))(request), name="scripted")
    with serving_models(local=model) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            for number in (1, 2, 1):
                await page.wait_for("!!document.querySelector('#send:enabled')")
                await page.type_into("#message", f"number {number}")
                await page.click("#send")
                await page.wait_for(f"document.querySelectorAll('.receipt').length === {number}")
                if number == 2:
                    await page.click("[aria-label=Conversations] .second")
            await page.wait_for("document.querySelector('.turn:last-child').innerText.includes('Still here.')")
            await harmless(page, url)


async def test_runs_of_agents_and_compared_answers(browser: Browser) -> None:
    """A tool's arguments and its result, the steps of a run, its answer, and the words that two answers differ by."""
    text = "\n\n".join(SHORT)
    model = ScriptedModel(in_turns(calling(("calculator", {"expression": text[:4000]})), saying(text)))
    with serving_agents({"careful": agent("calculator")}, model) as url:
        async with browser.tab(f"{url}/#/agents") as page:
            await page.type_into("#task", HOSTILE[0])
            await page.click("#run")
            await page.wait_for("/done|failed/.test(document.querySelector('.run h2')?.innerText)")
            await page.wait_for("!!document.querySelector('[aria-label=Runs]')")
            await page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            await harmless(page, url)
            await page.run("location.hash = '#/compare'")
            await page.wait_for("document.querySelectorAll('.check input').length >= 2")
            await page.run("document.querySelectorAll('.check input:not(:checked)').forEach((box) => box.click())")
            await page.type_into("#prompt", HOSTILE[0])
            await page.click("#ask")
            await page.click("[aria-expanded=false]")
            await page.wait_for("!!document.querySelector('.diff')")
            await harmless(page, url)


async def test_document_texts(browser: Browser, tmp_path: Path) -> None:
    text = "\n\n".join(["# Leave", *(f"Leave: {one}" for one in SHORT)])
    app, _ = rag_app(tmp_path / "data", ScriptedModel(saying("\n\n".join(SHORT), "[1]")), rag_min_score=0.0)
    with serving(app) as url:
        async with browser.tab(f"{url}/#/documents") as page:
            await page.upload("#files", "<img src=x onerror=window.pwned=1>.txt", text.encode())
            await page.wait_for("document.querySelector('.job .state.good, .job .state.bad')?.innerText")
            await page.type_into("#question", "How many days of leave are there?")
            await page.run("[...document.querySelectorAll('button')].find((one) => one.innerText === 'Search').click()")
            await page.wait_for("!!document.querySelector('[aria-label=Passages]')")
            await page.run("document.querySelector('[aria-label^=Read]').click()")
            await page.wait_for("!!document.querySelector('.text')")
            await page.click("#question-form button")
            await page.click(".citation")
            await page.wait_for("!!document.querySelector('#cited')")
            await harmless(page, url)
