"""The kinds of calls that `make bench-gateway` makes: not cacheable, a miss each time, a hit each time."""

import json
from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "miss", "hit"]
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello to the world, please."}]}
# where wrk writes the number of a call that must be unlike all others; nine characters, as the number has
COUNTER = "#########"


@dataclass(frozen=True, slots=True)
class Call:
    """``plain`` says no temperature, so that no cache may keep it; ``run`` sets the misses of one run apart."""

    kind: Kind
    streamed: bool
    run: int = 0

    def body(self) -> str:
        prompt = f"Say hello to the world, please. {self.run} {COUNTER}"
        unlike = {"messages": [{"role": "user", "content": prompt}]} if self.kind == "miss" else {}
        greedy = {} if self.kind == "plain" else {"temperature": 0}
        return json.dumps({**ASK, **unlike, **greedy, "stream": self.streamed})

    def headers(self, key: str) -> dict[str, str]:
        return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
