"""`genai chat`, and `genai "prompt"`: questions to a model, answered as they are written."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote

import typer

from apps.cli.remote import URL, CommandFailure, Json, Key, Service, Url, print_json, print_text, read_stdin

LOCAL = "local"
DONE = "[DONE]"
FENCE = '"""'
HELP = """/model NAME   ask another model        /system TEXT  set the system prompt
/reset        forget the conversation  /quit         leave (or Ctrl-D)
A line that ends in \\ goes on; three double quotes open and close a text of several lines. Ctrl-C stops an answer."""

Model = Annotated[
    str,
    typer.Option("--model", "-m", envvar="GENAI_MODEL", help="A name of `genai models`; left out, the local model."),
]
System = Annotated[str, typer.Option("--system", "-s", help="System prompt.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="The most tokens of an answer.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0, max=2, help="0 is repeatable.")]


@dataclass(slots=True)
class Conversation:
    """The messages so far, and how the next one is asked."""

    service: Service
    model: str
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str) -> Iterator[str]:
        """Yield the answer's text as it comes; it joins the conversation once it is whole.

        Raises CommandFailure; the question is then not part of the conversation.
        """
        question = {"role": "user", "content": text}
        parts: list[str] = []
        finished = False
        for kind, data in self.service.stream("/v1/chat/completions", self._body([*self.messages, question])):
            if kind != "message" or data == DONE:
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise CommandFailure(str(chunk["error"].get("message", "The model failed")))
            for choice in chunk.get("choices") or ():
                finished = finished or choice.get("finish_reason") is not None
                piece = (choice.get("delta") or {}).get("content")
                if piece:
                    parts.append(piece)
                    yield piece
        if not finished:
            raise CommandFailure("The answer was cut off")
        self.messages += [question, {"role": "assistant", "content": "".join(parts)}]

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {"model": self.model, "messages": [*system, *messages], "stream": True, **self.options}


def ask(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="The prompt; what is piped in follows.")
    ] = None,
    model: Model = "",
    system: System = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Ask once and print the answer. `genai "prompt"` is short for this; standard input is read where it is piped.

    Examples: genai "What is Python?" · cat notes.md | genai "Summarize this" · genai -m gpt-4o-mini "Hello"
    """
    prompt = "\n\n".join(part for part in (" ".join(words or ()), read_stdin()) if part.strip())
    if not prompt:
        raise CommandFailure('There is no prompt: genai "What is Python?"', 2)
    service = Service(url, key)
    model = model or _default_model(service)
    talk = Conversation(service, model, system, _options(max_tokens, temperature))
    if as_json:
        body = {**talk._body([{"role": "user", "content": prompt}]), "stream": False}
        print_json(service.post("/v1/chat/completions", body))
        return
    print_text(talk.ask(prompt))


def chat(
    model: Model = "",
    system: System = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    url: Url = URL,
    key: Key = "",
) -> None:
    """Talk with a model: a history, several lines where wanted.

    Examples: genai chat · genai chat -m gpt-4o-mini -s "Answer in one sentence"
    """
    service = Service(url, key)
    model = model or _default_model(service)
    talk = Conversation(service, model, system, _options(max_tokens, temperature))
    service.get(f"/v1/models/{quote(model)}")
    typer.echo(f"{model} at {url} - /help for commands, Ctrl-D to leave")
    _enable_line_editing()
    while True:
        try:
            text = _read_message()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()
            continue
        if text.startswith("/"):
            if not _command(talk, text):
                return
        elif text.strip():
            _answer(talk, text)


def _default_model(service: Service) -> str:
    """The local model's name; where there is none, the first that is ready."""
    models = service.get("/v1/models")["data"]
    local = [model["id"] for model in models if model["owned_by"] == LOCAL]
    # an upstream that was never asked may be ready, too
    ready = [model["id"] for state in ("ready", "unknown") for model in models if model["status"] == state]
    if not local and not ready:
        raise CommandFailure("No model is ready: see `genai models`")
    return str((local or ready)[0])


def _answer(talk: Conversation, text: str) -> None:
    try:
        print_text(talk.ask(text))
    except KeyboardInterrupt:
        typer.echo("(stopped; the question is forgotten)")
    except CommandFailure as error:
        typer.echo(str(error), err=True)


def _command(talk: Conversation, line: str) -> bool:
    """Carry out a line that begins with a slash. Returns False where the conversation ends."""
    name, _, rest = line[1:].strip().partition(" ")
    if name in ("quit", "exit", "q"):
        return False
    if name == "model" and rest:
        talk.model = rest.strip()
    elif name == "system":
        talk.system = rest.strip()
    elif name == "reset":
        talk.messages.clear()
    else:
        print_text([HELP])
    return True


def _read_message() -> str:
    line = input("> ")
    if line.startswith(FENCE):
        lines = [line.removeprefix(FENCE)]
        while not lines[-1].endswith(FENCE):
            lines.append(input("... "))
        lines[-1] = lines[-1].removesuffix(FENCE)
        return "\n".join(lines).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("... "))
    return "\n".join(lines)


def _enable_line_editing() -> None:
    """Arrow keys and history in `input`, where this Python has them (not on Windows)."""
    try:
        import readline  # noqa: F401 - importing it is what enables it
    except ImportError:
        return


def _options(max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    given = {"max_tokens": max_tokens, "temperature": temperature}
    return {name: value for name, value in given.items() if value is not None}
