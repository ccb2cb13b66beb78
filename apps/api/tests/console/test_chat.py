"""The chat's own parts in Chromium: what is sent, what is shown beside the text, and what is kept."""

import ast
import asyncio
import json
import shlex
from typing import Any

import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta, ToolCallDelta
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.browser import SAVED, Browser, Page, needs_chromium
from apps.tests.support.console import ask
from apps.tests.support.serving import serving_models

pytestmark = [needs_chromium, pytest.mark.long]

LOCAL = "scripted"
PROMPT = 'Say "it\'s" in \\ two words, é'


def said(request: ChatRequest) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in request.messages]


async def answered(page: Page, count: int) -> None:
    await page.wait_for(f"document.querySelectorAll('.receipt').length === {count} && !document.querySelector('#stop')")


async def test_a_question_is_asked_again_and_changed(browser: Browser) -> None:
    model = ScriptedModel(saying("one"))
    with serving_models(local=model) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await ask(page, "first", LOCAL)
            await answered(page, 1)
            await ask(page, "second", LOCAL)
            await answered(page, 2)
            conversation = said(model.requests[-1])
            assert conversation == [("user", "first"), ("assistant", "one"), ("user", "second")]
            buttons = "[...document.querySelectorAll('.turn:last-child .actions button')]"
            await page.run(f"{buttons}.find((one) => one.innerText === 'Regenerate').click()")
            async with asyncio.timeout(60):
                # the model is another thread's: there is nothing of ours to wait on
                while len(model.requests) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await answered(page, 2)
            assert said(model.requests[-1]) == conversation
            await page.run(f"{buttons}.find((one) => one.innerText === 'Edit').click()")
            await answered(page, 1)
            assert await page.run("document.querySelector('#message').value") == "second"
            assert await page.run("document.activeElement.id") == "message"
            await ask(page, "another", LOCAL)
            await answered(page, 2)
            assert said(model.requests[-1]) == [("user", "first"), ("assistant", "one"), ("user", "another")]
            assert page.errors == []


async def test_parameters_reach_the_model_and_the_programs(browser: Browser) -> None:
    model = ScriptedModel(saying("done"))
    with serving_models(local=model) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await page.wait_for("!!document.querySelector('#send:enabled')")
            for field, value in (("#system", "Be brief."), ("[max='2']", "0.5"), ("[max='1']", "0.9")):
                await page.type_into(f".parameters {field}", value)
            await ask(page, PROMPT, LOCAL)
            await answered(page, 1)
            request = model.requests[-1]
            assert said(request) == [("system", "Be brief."), ("user", PROMPT)]
            assert (request.temperature, request.top_p) == (0.5, 0.9)
            assert "3 set" in await page.run("document.querySelector('.parameters summary').innerText")
            await page.click(".code summary")
            codes = {}
            for number, name in enumerate(("curl", "Python", "PowerShell"), 1):
                await page.click(f".code [role=group] button:nth-child({number})")
                await page.wait_for(f"document.querySelector('.code [aria-pressed=true]').innerText === '{name}'")
                codes[name] = await page.run("document.querySelector('.code pre').textContent")
    words = shlex.split(codes["curl"])
    body = json.loads(words[words.index("-d") + 1])
    assert words[:2] == ["curl", f"{url}/v1/chat/completions"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    messages.append({"role": "assistant", "content": "done"})
    assert body == {"model": LOCAL, "temperature": 0.5, "top_p": 0.9, "messages": messages}
    calls = [node for node in ast.walk(ast.parse(codes["Python"])) if isinstance(node, ast.Call)]
    (create,) = (node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == "create")
    assert ast.literal_eval(create.keywords[0].value) == body
    between = codes["PowerShell"].partition("@'\n")[2].partition("\n'@")[0]
    assert json.loads(between) == body


async def test_reasoning_is_folded_and_calls_of_tools_are_shown(browser: Browser) -> None:
    pieces = [
        Delta(reasoning="First I count. ", model="scripted"),
        Delta(reasoning="Then I call <b>the tool</b>."),
        Delta(tool_calls=(ToolCallDelta(0, "1", "search", '{"query": '),)),
        Delta(tool_calls=(ToolCallDelta(0, arguments='"<i>leave</i>"}'),)),
        Delta(finish_reason="tool_calls"),
    ]
    with serving_models(local=ScriptedModel(lambda request: pieces)) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await ask(page, "How many?", LOCAL)
            await answered(page, 1)
            assert await page.run("document.querySelector('.answer details').open") is False
            await page.click(".answer summary")
            reasoning = await page.wait_for("document.querySelector('.answer details .plain')?.innerText")
            assert reasoning == "First I count. Then I call <b>the tool</b>."
            assert await page.run("document.querySelector('.call').innerText") == 'search({"query": "<i>leave</i>"})'
            assert "with calls of tools" in await page.run("document.querySelector('.receipt').innerText")


async def test_the_receipt_says_who_answered_and_where_the_text_went(browser: Browser) -> None:
    end = Delta(finish_reason="stop", model="scripted", usage=Usage(5, 3))
    words = [Delta("a ", model="scripted"), Delta("few "), Delta("words"), end]
    with serving_models(local=ScriptedModel(lambda request: words)) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            await ask(page, "Go", LOCAL)
            await answered(page, 1)
            facts = await page.run(
                "Object.fromEntries([...document.querySelectorAll('.receipt div')]"
                ".map((one) => [...one.children].map((part) => part.innerText)))"
            )
            assert {"answered by", "attempts", "queue", "first token", "whole", "tokens", "cost", "cache"} <= set(facts)
            assert (facts["answered by"], facts["attempts"]) == ("local / scripted", "1")
            assert facts["tokens"] == "5 in, 3 out"
            assert (facts["text went to"], facts["cost"]) == ("this machine", "$0.00")


async def test_conversations_are_exported_and_deleted(browser: Browser) -> None:
    with serving_models(local=ScriptedModel(saying("kept"))) as url:
        async with browser.tab(f"{url}/#/chat") as page:
            for number, question in enumerate(("first", "second"), 1):
                await ask(page, question, LOCAL)
                await page.wait_for(f"document.querySelectorAll('.past li').length === {number}")
                await page.click("[aria-label=Conversations] .second")
            await page.run(SAVED)
            await page.run(
                "[...document.querySelectorAll('aside button')].find((one) => one.innerText === 'Export all').click()"
            )
            await page.wait_for("!!window.saved")
            exported = json.loads(await page.run("window.saved"))
            assert sorted(one["title"] for one in exported) == ["first", "second"]
            assert all(one["turns"][0]["answer"]["text"] == "kept" for one in exported)
            await page.click("[aria-label='Delete first']")
            await page.wait_for("document.querySelectorAll('.past li').length === 1")
            await page.call("Page.reload")
            await page.wait_for("document.querySelectorAll('.past li').length === 1")
            assert "second" in await page.run("document.querySelector('.past').innerText")
