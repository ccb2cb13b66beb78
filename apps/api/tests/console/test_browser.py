"""The console in a real Chromium, against a real server."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, serving_agents
from apps.tests.support.browser import Page, browsing, needs_chromium
from apps.tests.support.keys import make_keys
from apps.tests.support.rag_serving import rag_app
from apps.tests.support.serving import serving, serving_models, settings

pytestmark = needs_chromium

UNSAFE = "script, img, iframe, object, embed, link, style, form, input, svg, math, video, [style], [onclick]"
ROW = "[...document.querySelectorAll('tr')].find((row) => row.innerText.includes('guest'))"
HOSTILE = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "<img src='https://example.org/leak.png'>",
    "![leak](https://example.org/leak.png)",
    "[click](javascript:window.pwned=1)",
    "[click](data:text/html;base64,PHNjcmlwdD53aW5kb3cucHduZWQ9MTwvc2NyaXB0Pg==)",
    "[click](vbscript:window.pwned=1)",
    "<svg onload='window.pwned=1'><circle r=9 /></svg>",
    "<svg><script>window.pwned=1</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.pwned=1></style></mglyph></table></mtext></math>",
    "<iframe src='https://example.org/'></iframe>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<object data='https://example.org/x.swf'></object><embed src='https://example.org/x'>",
    "<link rel=stylesheet href='https://example.org/x.css'>",
    "<style>@import url(https://example.org/x.css); body{display:none}</style>",
    "<div style='background:url(https://example.org/x.png);position:fixed;inset:0'>over</div>",
    "<form action='https://example.org/'><input name=a><button>go</button></form>",
    "<base href='https://example.org/'>",
    "<meta http-equiv=refresh content='0;url=https://example.org/'>",
    "<video src='https://example.org/x.mp4' autoplay></video><audio src='https://example.org/x.mp3'></audio>",
    "<a href='https://example.org/' onmouseover='window.pwned=1'>link</a>",
    "<details open ontoggle='window.pwned=1'><summary>x</summary></details>",
    "<body onload='window.pwned=1'>",
    "<input autofocus onfocus='window.pwned=1'>",
    "<template><script>window.pwned=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=window.pwned=1>'></noscript>",
    "<!--><img src=x onerror=window.pwned=1>-->",
    "<x onclick='window.pwned=1' id=main>clobber</x><form id=app name=app></form>",
    "`<img src=x onerror=window.pwned=1>`\n\n```html\n<script>window.pwned=1</script>\n```",
    "<b><i><u><table><tr><td>unclosed " * 50,
    "\u202eevil\u2066 bidi \u2069\u200f text\u061c",
    "| a | b |\n|---|---|\n| <img src=x onerror=window.pwned=1> | [x](javascript:window.pwned=1) |",
    "<a href='&#106;avascript:window.pwned=1'>x</a> <a href=' javascript:window.pwned=1'>y</a>",
    "<picture><source srcset='https://example.org/x.png'><img src='https://example.org/y.png'></picture>",
    "x" * 2_000_000,
]


async def type_into(page: Page, selector: str, text: str) -> None:
    """Set a field's value as typing would, once the field is there."""
    await page.wait_for(f"!!document.querySelector({json.dumps(selector)})")
    await page.run(
        f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(text)};"
        " field.dispatchEvent(new Event('input', {bubbles: true}));"
        " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    await asyncio.sleep(0.1)


async def ask(page: Page, prompt: str) -> None:
    await page.wait_for("!!document.querySelector('#send:enabled')")
    await type_into(page, "#message", prompt)
    await page.click("#send")


@pytest.mark.long
async def test_an_answer_streams_with_its_receipt_and_is_kept(tmp_path: Path) -> None:
    model = ScriptedModel(saying("Hello **wor", "ld**."), name="scripted")
    with serving_models(local=model) as url:
        async with browsing(f"{url}/#/chat", tmp_path) as page:
            await ask(page, "Say hello")
            await page.wait_for("(document.querySelector('.receipt') || {}).innerText")
            assert await page.run("document.querySelector('.answer strong').innerText") == "world"
            receipt = await page.run("document.querySelector('.receipt').innerText")
            assert "scripted" in receipt and "first token" in receipt
            await page.call("Page.reload")
            await page.click(".past .link")
            await page.wait_for("!!document.querySelector('.answer strong')")
            outside = [asked for asked in page.requested if not asked.startswith((url, "data:", "blob:"))]
            assert outside == []


@pytest.mark.long
async def test_stop_ends_the_answer_on_the_server_too(tmp_path: Path) -> None:
    def endless(request: ChatRequest) -> Sequence[Step]:
        return [step for _ in range(2000) for step in (Delta("word ", model="scripted"), 0.05)]

    model = ScriptedModel(endless, name="scripted")
    with serving_models(local=model) as url:
        async with browsing(f"{url}/#/chat", tmp_path) as page:
            await ask(page, "Go on for ever")
            await page.wait_for("(document.querySelector('.answer') || {innerText: ''}).innerText.includes('word')")
            assert model.open == 1
            await page.click("#stop")
            async with asyncio.timeout(60):
                # the model is another thread's: there is nothing of ours to wait on
                while model.open:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await page.wait_for("!!document.querySelector('#send')")


@pytest.mark.long
async def test_two_models_are_compared(tmp_path: Path) -> None:
    with serving_agents({"calculator": agent("calculator")}, ScriptedModel(saying("Four."))) as url:
        async with browsing(f"{url}/#/compare", tmp_path) as page:
            await page.wait_for("document.querySelectorAll('.check input').length >= 2")
            await page.run("document.querySelectorAll('.check input:not(:checked)').forEach((box) => box.click())")
            await type_into(page, "textarea", "What is 2 + 2?")
            await page.click("form button")
            await page.wait_for("document.querySelectorAll('.columns article').length >= 2")


@pytest.mark.long
async def test_hostile_answers_stay_text(tmp_path: Path) -> None:
    turn = iter(HOSTILE)
    model = ScriptedModel(lambda request: saying(next(turn))(request), name="scripted")
    with serving_models(local=model) as url:
        async with browsing(f"{url}/#/chat", tmp_path) as page:
            await page.call("Page.enable")
            for number in range(len(HOSTILE)):
                await ask(page, f"number {number}")
                await page.wait_for(f"document.querySelectorAll('.receipt').length === {number + 1}")
            assert await page.run("window.pwned") is None
            parts = "[...document.querySelectorAll('.markdown')]"
            assert await page.run(f"{parts}.flatMap((part) => [...part.querySelectorAll('{UNSAFE}')]).length") == 0
            links = await page.run("[...document.querySelectorAll('.markdown a[href]')].map((link) => link.protocol)")
            assert set(links) <= {"http:", "https:"}
            assert [asked for asked in page.requested if "example.org" in asked] == []
            await page.run("location.hash = '#/start'")
            await page.wait_for("document.querySelector('h1').innerText === 'genai-project'")


@pytest.mark.long
async def test_a_document_goes_in_and_its_citation_opens(tmp_path: Path) -> None:
    app, _ = rag_app(tmp_path / "data", ScriptedModel(saying("There are 30 days [1].")))
    with serving(app) as url:
        async with browsing(f"{url}/#/documents", tmp_path / "browser") as page:
            await page.wait_for("!!document.querySelector('#files')")
            await page.run(
                "(() => { const files = new DataTransfer();"
                " files.items.add(new File(['# Leave\\n\\nEverybody has 30 days of leave.'], 'leave.md'));"
                " const input = document.querySelector('#files'); input.files = files.files;"
                " input.dispatchEvent(new Event('change', {bubbles: true})); })()"
            )
            await page.wait_for("document.body.innerText.includes('leave.md: done')")
            await type_into(page, "#question", "How many days of leave are there?")
            await page.click("form button")
            await page.click(".citation")
            await page.wait_for("document.querySelector('#cited').innerText.includes('30 days')")


@pytest.mark.long
async def test_an_approval_is_given(tmp_path: Path) -> None:
    script = in_turns(calling(("calculator", {"expression": "2 + 3"})), saying("It is 5."))
    declared = {"careful": agent("calculator", approval=["calculator"])}
    with serving_agents(declared, ScriptedModel(script)) as url:
        async with browsing(f"{url}/#/agents", tmp_path) as page:
            await type_into(page, "#task", "What is 2 + 3?")
            await page.click("form button")
            await page.click(".approve")
            await page.wait_for("document.body.innerText.includes('It is 5.')")


@pytest.mark.long
async def test_a_key_is_made_used_and_revoked(tmp_path: Path) -> None:
    configured = settings(data_dir=tmp_path / "data", auth="on")
    (admin,) = await asyncio.to_thread(make_keys, configured, {"name": "operator", "admin": True})
    with serving_models(data_dir=tmp_path / "data", auth="on", secret_key=configured.secret_key) as url:
        async with browsing(f"{url}/#/keys", tmp_path / "browser") as page:
            await type_into(page, "#key", admin)
            await page.click(".signin button")
            await type_into(page, "[name=name]", "guest")
            await type_into(page, "[name=routes]", "/v1/*")
            await page.click("form button")
            made = await page.wait_for("(document.querySelector('#made') || {}).innerText")
            seen = f"fetch('/v1/me', {{headers: {{Authorization: 'Bearer {made}'}}}}).then((answer) => answer.status)"
            assert await page.run(seen) == 200
            await page.wait_for(f"!!{ROW}")
            await page.run(f"{ROW}.querySelector('.revoke').click()")
            await page.wait_for("document.body.innerText.includes('revoked')")
            assert await page.run(seen) == 401
            assert await page.run("document.cookie") == ""
