"""The only place that names concrete classes: settings in, the services of the app out."""

from dataclasses import dataclass

from apps.core.ports import ChatModel
from apps.core.settings import Settings
from apps.models.local.model import LocalModel
from apps.models.openai_model import OpenAIModel
from apps.models.retry import RetryingModel


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes ask."""

    cloud: ChatModel
    local: ChatModel

    async def start(self) -> None:
        await self.cloud.start()
        await self.local.start()

    async def aclose(self) -> None:
        await self.cloud.aclose()
        await self.local.aclose()


def build_services(settings: Settings) -> Services:
    cloud = RetryingModel(OpenAIModel(settings), attempts=settings.retry_attempts, backoff=settings.retry_backoff)
    return Services(cloud=cloud, local=LocalModel(settings))
