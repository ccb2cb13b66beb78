"""Every run of the tests looks for secrets in what the service writes."""

pytest_plugins = ["apps.tests.plugin"]
