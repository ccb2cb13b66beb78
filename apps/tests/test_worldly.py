"""What a test fetches from the world goes the machine's way there; all else in a test goes none."""

from apps.tests.support.worldly import set_world_aside, worldly_environment

MACHINE = {
    "PATH": "/bin",
    "https_proxy": "http://proxy.test",
    "HTTP_PROXY": "http://other.test",
    "no_proxy": "localhost",
    "SSL_CERT_FILE": "/authorities.pem",
    "SSL_CERT_DIR": "/authorities",
}


def test_proxies_and_authorities_are_set_aside_and_given_back() -> None:
    environment = dict(MACHINE)
    # a worker of the tests inherits what is left, and does the same
    for _ in range(2):
        set_world_aside(environment)
        environment["SSL_CERT_FILE"] = "/none.pem"
        kept = set(environment) - {"PATH", "SSL_CERT_FILE"}
        assert len(kept) == 1
        assert worldly_environment(environment) == MACHINE


def test_a_machine_that_names_no_authority_has_its_own_ones() -> None:
    environment = {"PATH": "/bin"}
    set_world_aside(environment)
    environment["SSL_CERT_FILE"] = "/none.pem"
    assert worldly_environment(environment) == {"PATH": "/bin"}


def test_an_environment_that_nothing_was_taken_from_stays() -> None:
    assert worldly_environment(MACHINE) == MACHINE
