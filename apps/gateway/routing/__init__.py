"""From a model name to a target that answers: configuration, router, breaker, attempts."""
