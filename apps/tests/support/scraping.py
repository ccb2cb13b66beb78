"""Reads /metrics as Prometheus does: a sample's name and labels, and its value."""

from collections.abc import Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from apps.tests.overheard import hearing_client


class Scrape:
    """One answer of /metrics, whole and as samples."""

    def __init__(self, text: str) -> None:
        self.text = text
        families = list(text_string_to_metric_families(text))
        self.kinds = {family.name: family.type for family in families}
        self.families = {family.name: {sample.name for sample in family.samples} for family in families}
        self.samples = list(_samples(text))

    def sum(self, name: str, **labels: str) -> float:
        """Over every series of the name that has these labels."""
        return sum(sample.value for sample in self.samples if sample.name == name and _has(sample.labels, labels))

    def values(self, label: str) -> set[str]:
        """What a label is anywhere."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}

    @property
    def names(self) -> set[str]:
        """Of the samples, as a query would use them."""
        return {sample.name for sample in self.samples}


def scrape(url: str) -> Scrape:
    with hearing_client(timeout=90) as client:
        answer = client.get(f"{url}/metrics")
    assert answer.status_code == 200
    return Scrape(answer.text)


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())
