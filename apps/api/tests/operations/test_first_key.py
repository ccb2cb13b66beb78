"""The first key of all, made beside a running server that was open until then."""

from pathlib import Path

import httpx2

from apps.tests.support.keys import bearer, make_keys
from apps.tests.support.serving import serving_models, settings

ASK = {"prompt": "x"}


def test_the_first_key_counts_for_whoever_shows_it_and_closes_the_service_for_the_rest(
    tmp_path: Path, http: httpx2.Client
) -> None:
    with serving_models(auth="auto", data_dir=tmp_path) as url:
        assert http.post(f"{url}/local/generate", json=ASK).status_code == 200
        unknown = bearer("ga_nobody-has-made-this-one-and-nobody-needs-one")
        assert http.post(f"{url}/local/generate", json=ASK, headers=unknown).status_code == 200
        (key,) = make_keys(settings(data_dir=tmp_path), {"models": ["another-*"]})
        # at once, and not when the server next looks whether there are keys
        assert http.post(f"{url}/local/generate", json=ASK, headers=bearer(key)).status_code == 403
        assert http.post(f"{url}/local/generate", json=ASK).status_code == 401
