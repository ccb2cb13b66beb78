"""Support of the tests: servers, clients and helpers that several domains use."""
