"""The models in Ollama's words: what it lists, shows, and tells of those that are loaded."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.api.src.v1.models import ModelDirectory
from apps.core.errors import NotFound, quoted
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import Target

Card = dict[str, Any]
# nothing is unloaded here: as far away as a year
KEPT = timedelta(days=365)


class ModelCards:
    """Describes the names of a router; sizes of what is elsewhere are nobody's to know, and 0."""

    def __init__(self, default_model: str) -> None:
        self._directory = ModelDirectory(default_model)
        self._began = datetime.now(UTC)

    def listed(self, router: Router, more: Iterable[str], *, running: bool) -> list[Card]:
        """All of them, or those of this process that are loaded."""
        cards = []
        for name, targets in self._directory.names(router, more).items():
            if not running:
                cards.append(self._card(name, targets))
            elif targets[0].provider.config.kind == "local" and targets[0].provider.chat.readiness().state == "ready":
                until = (datetime.now(UTC) + KEPT).isoformat().replace("+00:00", "Z")
                details = targets[0].provider.chat.readiness().details
                context = details.get("context_length") or 0
                cards.append(
                    {**self._card(name, targets), "expires_at": until, "size_vram": 0, "context_length": context}
                )
        return cards

    def shown(self, router: Router, name: str) -> Card:
        """Raises NotFound for a name that nobody answers to."""
        targets = self.known(router, name)
        kind, details = targets[0].provider.config.kind, targets[0].provider.chat.readiness().details
        info: Card = {"general.architecture": self._family(targets)}
        context = details.get("context_length") or targets[0].config.context
        if context:
            info[f"{self._family(targets)}.context_length"] = context
        if kind == "embedder":
            capabilities = ["embedding"]
        else:
            capabilities = ["completion", *(["tools"] if targets[0].config.tools and kind != "rag" else [])]
            capabilities += ["vision"] if targets[0].config.images and not targets[0].provider.config.in_process else []
        return {
            "license": "",
            "modelfile": f"FROM {name}",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": self._card(name, targets)["details"],
            "model_info": info,
            "capabilities": capabilities,
            "modified_at": self._began.isoformat(),
        }

    @staticmethod
    def known(router: Router, name: str) -> Sequence[Target]:
        """The targets of a name. Raises NotFound, in Ollama's words."""
        own = router.own().get(name)
        if own is not None:
            return [own]
        try:
            return router.candidates(name, Needs())
        except NotFound as error:
            raise NotFound(f'model "{quoted(name)}" not found', field="model", details=error.details) from None

    def _card(self, name: str, targets: Sequence[Target]) -> Card:
        details = targets[0].provider.chat.readiness().details
        family = self._family(targets)
        return {
            "name": name,
            "model": name,
            "modified_at": self._began.isoformat(),
            "size": 0,
            "digest": hashlib.sha256(f"{targets[0].provider.name}/{name}".encode()).hexdigest(),
            "details": {
                "parent_model": "",
                "format": "safetensors" if targets[0].provider.config.in_process else "",
                "family": family,
                "families": [family],
                "parameter_size": "",
                "quantization_level": str(details.get("precision") or ""),
            },
        }

    @staticmethod
    def _family(targets: Sequence[Target]) -> str:
        provider = targets[0].provider
        told = provider.chat.readiness().details.get("architecture")
        return str(told) if told else provider.name
